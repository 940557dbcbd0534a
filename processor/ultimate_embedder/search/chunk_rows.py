"""From a chunk's id to its row."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from .json_lines import JsonLines

_Digests = npt.NDArray[np.uint64]


class ChunkRows:
    """Rows by chunk id: 16 bytes a row, made at the first look-up.

    Digests of 64 bits narrow the search; the id itself decides.
    """

    def __init__(self, ids: JsonLines) -> None:
        self._ids = ids
        self._lock = threading.Lock()
        self._sorted: tuple[_Digests, npt.NDArray[np.intp]] | None = None

    def find(self, chunk_id: str) -> int | None:
        """Return the row of a chunk; None: there is none of that id."""
        digests, rows = self._table()
        wanted = _digests([chunk_id])[0]
        start = int(np.searchsorted(digests, wanted, side="left"))
        end = int(np.searchsorted(digests, wanted, side="right"))
        for row in rows[start:end].tolist():
            if self._ids.text(row, "chunk_id") == chunk_id:
                return int(row)
        return None

    def _table(self) -> tuple[_Digests, npt.NDArray[np.intp]]:
        with self._lock:
            if self._sorted is None:
                digests = _digests(
                    self._ids.text(row, "chunk_id") for row in range(len(self._ids))
                )
                order = np.argsort(digests, kind="stable")
                self._sorted = digests[order], order
            return self._sorted


def _digests(ids: Iterable[str]) -> _Digests:
    """Return 64-bit BLAKE2b digests: uint64 [ids]."""
    whole = b"".join(
        blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for one in ids
    )
    return np.frombuffer(whole, dtype=np.uint64)
