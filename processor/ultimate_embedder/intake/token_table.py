"""Token ids of a whole collection on disk, made once for each tokenizer.

Measuring the collection makes the ids anyway; they are kept, so nothing is tokenised
twice, and workers read them through memory maps.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..encoders.protocols import Tokenizer
from ..records import Int64Array, UInt32Array
from .chunk_store import ChunkStore

_TEXTS_A_CALL = 256


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Ids by row, cut to the window.

    Shapes: `ids` uint32 [tokens]; `offsets` int64 [rows + 1]; `full_lengths` int32
    [rows], before the cut. All memory-mapped.
    """

    ids: UInt32Array
    offsets: Int64Array
    full_lengths: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.full_lengths)

    def row(self, row: int) -> UInt32Array:
        """Return the ids of one row, uint32 [length]."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64Array:
        """Return tokens kept a row, int64 [rows]."""
        return np.diff(self.offsets)

    @property
    def truncated(self) -> Int64Array:
        """Return tokens lost a row, int64 [rows]."""
        return self.full_lengths - self.lengths

    @classmethod
    def open(cls, directory: Path) -> TokenTable:
        """Map a table that `build` has written."""
        offsets = np.load(directory / "offsets.npy", mmap_mode="r")
        return cls(
            ids=np.memmap(
                directory / "ids.u32", np.uint32, mode="r", shape=(int(offsets[-1]),)
            ),
            offsets=offsets,
            full_lengths=np.load(directory / "full_lengths.npy", mmap_mode="r"),
        )

    @classmethod
    def build(
        cls, store: ChunkStore, tokenizer: Tokenizer, directory: Path
    ) -> TokenTable:
        """Tokenise every row as a document, or reuse what is there for these texts."""
        key = {"texts": store.text_digest, "tokenizer": tokenizer.fingerprint}
        done = directory / "done.json"
        if _read_key(done) == key:
            try:
                return cls.open(directory)
            except (FileNotFoundError, ValueError, EOFError):
                pass  # removed or cut short since: made anew
        directory.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        _write(store, tokenizer, directory)
        done.write_text(json.dumps(key), encoding="utf-8")
        return cls.open(directory)


def _read_key(done: Path) -> Any:
    try:
        return json.loads(done.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None  # never finished, or cut short: made anew


def _write(store: ChunkStore, tokenizer: Tokenizer, directory: Path) -> None:
    offsets = np.zeros(len(store) + 1, dtype=np.int64)
    full_lengths = np.zeros(len(store), dtype=np.int32)
    with (directory / "ids.u32").open("wb") as stream:
        for start in range(0, len(store), _TEXTS_A_CALL):
            rows = range(start, min(start + _TEXTS_A_CALL, len(store)))
            tokenised = tokenizer.encode([store.text(row) for row in rows], "document")
            for row, ids, full in zip(
                rows, tokenised.ids, tokenised.full_lengths, strict=True
            ):
                stream.write(ids.tobytes())
                offsets[row + 1] = offsets[row] + len(ids)
                full_lengths[row] = full
        _sync(stream)
    for name, array in (("offsets", offsets), ("full_lengths", full_lengths)):
        with (directory / f"{name}.npy").open("wb") as stream:
            np.save(stream, array)
            _sync(stream)


def _sync(stream: BinaryIO) -> None:
    """Have the content on the disk before the mark that says so."""
    stream.flush()
    os.fsync(stream.fileno())
