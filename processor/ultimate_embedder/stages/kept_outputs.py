"""The bytes that a pass keeps of one output, and the digests that prove them.

Each finished batch has its digest in the ledger. What comes back from the disk in a
later run is compared with it before it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ..errors import UNREADABLE_ARRAY
from ..intake.pieces import Pieces
from ..ledger import BatchRecord
from ..planning import BatchPlan
from ..records import Float32Array, Int64Array
from ..workers.jobs import Output

_DIGEST_BYTES = 16
_PIECES_AT_ONCE = 4096


class KeptOutput:
    """One output of a pass, memory-mapped: read after the writes that filled it."""

    def __init__(
        self,
        pieces: Pieces,
        offsets: Int64Array,
        *,
        vectors: Float32Array | None = None,
        windows: Float32Array | None = None,
        attention: Float32Array | None = None,
    ) -> None:
        """`vectors` and `windows` are float32 [n, width], `attention` [tokens].

        `offsets` int64 [rows + 1] say where the tokens of a row begin.
        """
        self._pieces, self._offsets = pieces, offsets
        self._vectors, self._windows = vectors, windows
        self._attention = attention

    @classmethod
    def open(
        cls, folder: Path, output: Output, pieces: Pieces, offsets: Int64Array
    ) -> KeptOutput | None:
        """Return what lies in a folder, None: it is gone, cut short or no array."""
        try:
            if output == "attention":
                weights = np.memmap(
                    folder / "attention.f32",
                    np.float32,
                    mode="r",
                    shape=(int(offsets[-1]),),
                )
                return cls(pieces, offsets, attention=weights)
            vectors = _vectors(folder / "vectors.npy", pieces.rows)
            windows = None
            if pieces.windows:
                windows = _vectors(folder / "windows.npy", pieces.windows)
        except UNREADABLE_ARRAY:
            return None
        return cls(pieces, offsets, vectors=vectors, windows=windows)

    def digest(self, numbers: Int64Array) -> str:
        """Return the digest of the bytes of some pieces, in their order, in hex."""
        hashed = blake2b(digest_size=_DIGEST_BYTES)
        for start in range(0, len(numbers), _PIECES_AT_ONCE):
            for part in self._parts(numbers[start : start + _PIECES_AT_ONCE]):
                hashed.update(np.ascontiguousarray(part).data)
        return hashed.hexdigest()

    def damaged(self, plan: BatchPlan, records: Iterable[BatchRecord]) -> list[int]:
        """Return the batches whose bytes are not those of their records."""
        return [
            record.batch
            for record in records
            if self.digest(plan.batch(record.batch)) != record.digest
        ]

    def _parts(self, numbers: Int64Array) -> Iterable[Float32Array]:
        if self._attention is not None:
            attention = self._attention
            return (attention[slice(*self._span(int(one)))] for one in numbers)
        is_window = numbers >= self._pieces.rows
        found = []
        if self._vectors is not None:
            found.append(self._vectors[numbers[~is_window]])
        if self._windows is not None:
            found.append(self._windows[numbers[is_window] - self._pieces.rows])
        return found

    def _span(self, number: int) -> tuple[int, int]:
        """Return which tokens of the table a piece has the attention of.

        The first window of a text has its head too, the last one its tail.
        """
        pieces = self._pieces
        if number < pieces.rows:
            return int(self._offsets[number]), int(self._offsets[number + 1])
        window = number - pieces.rows
        row = int(pieces.window_rows[window])
        first, last = np.searchsorted(pieces.window_rows, [row, row + 1])
        begin, end = int(self._offsets[row]), int(self._offsets[row + 1])
        start = begin if window == first else begin + int(pieces.starts[window])
        stop = end if window == last - 1 else begin + int(pieces.stops[window])
        return start, stop


def _vectors(path: Path, rows: int) -> Float32Array:
    """Return a file's vectors.

    Raises:
        ValueError: they are not float32 [rows, width].
    """
    found: Float32Array = np.load(path, mmap_mode="r")
    if found.ndim != 2 or len(found) != rows or found.dtype != np.float32:
        raise ValueError(f"{path} is not float32 [{rows}, width]")
    return found
