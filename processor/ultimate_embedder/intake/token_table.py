"""Token ids of a whole collection on disk, made once for each tokenizer.

Measuring the collection makes the ids anyway; they are kept, so nothing is tokenised
twice, and workers read them through memory maps.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..encoders.protocols import Frame, Tokenizer
from ..encoders.windows import cut_ids
from ..libraries import installed_versions
from ..records import Int64Array, UInt32Array
from .chunk_store import ChunkStore

_TEXTS_A_CALL = 256
_LIBRARIES = ("tokenizers",)
_DONE = "done.json"
_FILES = ("ids.u32", "offsets.npy", "full_lengths.npy", "frame.npy")


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Ids by row: of whole texts, or cut where the table was built so.

    Shapes: `ids` uint32 [tokens]; `offsets` int64 [rows + 1]; `full_lengths` int32
    [rows], before a cut. All memory-mapped. `frame` stands around each row's text.
    """

    ids: UInt32Array
    offsets: Int64Array
    full_lengths: npt.NDArray[np.int32]
    frame: Frame

    def __len__(self) -> int:
        return len(self.full_lengths)

    def row(self, row: int) -> UInt32Array:
        """Return the ids of one row, uint32 [length]."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64Array:
        """Return tokens kept a row, int64 [rows]."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: Int64Array) -> Int64Array:
        """Return tokens kept of some rows, int64 [rows]; the others are not read."""
        return self.offsets[rows + 1] - self.offsets[rows]

    @property
    def truncated(self) -> Int64Array:
        """Return tokens lost a row, int64 [rows]."""
        return self.full_lengths - self.lengths

    @classmethod
    def open(cls, directory: Path) -> TokenTable:
        """Map a table that `build` has written."""
        offsets = np.load(directory / "offsets.npy", mmap_mode="r")
        ids = np.memmap(
            directory / "ids.u32", np.uint32, mode="r", shape=(int(offsets[-1]),)
        )
        full_lengths = np.load(directory / "full_lengths.npy", mmap_mode="r")
        head, tail = np.load(directory / "frame.npy").tolist()
        # As plain views: a slice of a memmap object takes five times as long.
        return cls(
            ids=np.asarray(ids),
            offsets=np.asarray(offsets),
            full_lengths=np.asarray(full_lengths),
            frame=Frame(head, tail),
        )

    @classmethod
    def build(
        cls,
        store: ChunkStore,
        tokenizer: Tokenizer,
        directory: Path,
        *,
        cut_at: int | None = None,
        tell: Callable[[str, bool], None] = lambda *_: None,
    ) -> TokenTable:
        """Tokenise every row as a document, or reuse what is there for these texts.

        `cut_at` is the most tokens kept of a row, None: all of them. `tell` hears why
        what is there is not reused, and whether it is damaged.
        """
        key = {
            "texts": store.text_digest,
            "tokenizer": tokenizer.fingerprint,
            "cut_at": cut_at,
            "libraries": installed_versions(_LIBRARIES),
        }
        done = directory / _DONE
        found = _read_done(done)
        if found.get("key") == key:
            if found.get("sums") == _sums(directory):
                return cls.open(directory)
            tell("token ids of an earlier run are not what was written", True)
        elif done.exists():
            tell(*_why_not(key, found.get("key")))
        directory.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        _write(store, tokenizer, directory, cut_at)
        mark = {"key": key, "sums": _sums(directory)}
        done.write_text(json.dumps(mark), encoding="utf-8")
        return cls.open(directory)


def _read_done(done: Path) -> dict[str, Any]:
    try:
        found = json.loads(done.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # never finished, or cut short: made anew
    return found if isinstance(found, dict) else {}


def _why_not(key: Mapping[str, Any], found: object) -> tuple[str, bool]:
    if not isinstance(found, dict):
        return "token ids of an earlier run cannot be read", True
    changed = [name for name in key if key[name] != found.get(name)]
    return f"{', '.join(changed)} changed", False


def _sums(directory: Path) -> dict[str, str | None]:
    """Return the SHA-256 of each file of a table, None where it cannot be read."""
    sums: dict[str, str | None] = {}
    for name in _FILES:
        try:
            with (directory / name).open("rb") as stream:
                sums[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            sums[name] = None
    return sums


def _write(
    store: ChunkStore, tokenizer: Tokenizer, directory: Path, cut_at: int | None
) -> None:
    offsets = np.zeros(len(store) + 1, dtype=np.int64)
    full_lengths = np.zeros(len(store), dtype=np.int32)
    frame = Frame(0, 0)
    with (directory / "ids.u32").open("wb") as stream:
        for start in range(0, len(store), _TEXTS_A_CALL):
            rows = range(start, min(start + _TEXTS_A_CALL, len(store)))
            tokenised = tokenizer.encode([store.text(row) for row in rows], "document")
            frame = tokenised.frame
            for row, ids in zip(rows, tokenised.ids, strict=True):
                kept = ids if cut_at is None else cut_ids(ids, frame, cut_at)
                stream.write(kept.tobytes())
                offsets[row + 1] = offsets[row] + len(kept)
                full_lengths[row] = len(ids)
        _sync(stream)
    arrays: dict[str, npt.NDArray[Any]] = {
        "offsets": offsets,
        "full_lengths": full_lengths,
        "frame": np.array([frame.head, frame.tail]),
    }
    for name, array in arrays.items():
        with (directory / f"{name}.npy").open("wb") as stream:
            np.save(stream, array)
            _sync(stream)


def _sync(stream: BinaryIO) -> None:
    """Have the content on the disk before the mark that says so."""
    stream.flush()
    os.fsync(stream.fileno())
