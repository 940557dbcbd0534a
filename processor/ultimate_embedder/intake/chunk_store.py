"""A collection's chunks on disk, by row: built once, then read at random.

Rows are in the bytewise order of (source_subdir, filename), then index; that is the
order of every file of a bundle. In memory there is a name, an offset and a hash a
chunk; the texts stay in a file beside.
"""

from __future__ import annotations

import hashlib
import mmap
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import InputError
from ..records import Chunk, Int64Array, Quarantined
from ..telemetry.events import BatchFinished, Emit, ItemQuarantined
from .chunks import CollectionFolder, read_chunk_file

_SPOOL = "chunks.jsonl"
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Conservation:
    """What was read and what became of it: read = embedded + quarantined."""

    files_read: int
    chunks_read: int
    embedded: int
    quarantined: tuple[Quarantined, ...]

    @property
    def chunks_aside(self) -> int:
        """Chunks set aside; a file that could not be read counts as none."""
        return sum(item.index is not None for item in self.quarantined)

    @property
    def files_aside(self) -> int:
        """Files set aside: how many chunks they hold is not known."""
        return len(self.quarantined) - self.chunks_aside

    @property
    def adds_up(self) -> bool:
        """Whether every chunk read is accounted for."""
        return self.chunks_read == self.embedded + self.chunks_aside


class ChunkStore:
    """Chunks by row. Made by `build`; reading is safe from several threads."""

    def __init__(
        self,
        collection: str,
        spool: Path,
        places: Int64Array,
        hashes: npt.NDArray[np.uint8],
        conservation: Conservation,
    ) -> None:
        """Open the spool; `places` is int64 [rows, 2], `hashes` uint8 [rows, 32]."""
        self.collection = collection
        self.conservation = conservation
        self._places = places
        self._hashes = hashes
        with spool.open("rb") as stream:
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.text_digest = hashlib.sha256(hashes.tobytes()).hexdigest()
        self.digest = self._digest()

    @classmethod
    def build(cls, folder: CollectionFolder, work_dir: Path, emit: Emit) -> ChunkStore:
        """Read a collection's chunk files into `work_dir` and open the result.

        Raises:
            InputError: there is no usable chunk.
        """
        work_dir.mkdir(parents=True, exist_ok=True)
        spool = work_dir / _SPOOL
        with spool.open("wb") as stream:
            intake = _Intake(stream)
            for path in folder.files:
                started, told = time.perf_counter(), len(intake.quarantined)
                for item in read_chunk_file(folder, path):
                    intake.take(item, path.relative_to(folder.path).as_posix())
                for aside in intake.quarantined[told:]:
                    emit(_quarantine_event(folder.name, aside))
                emit(
                    BatchFinished(
                        stage="read",
                        collection=folder.name,
                        items=1,
                        seconds=time.perf_counter() - started,
                    )
                )
        conservation = Conservation(
            files_read=len(folder.files),
            chunks_read=intake.chunks_read,
            embedded=len(intake.keys),
            quarantined=tuple(intake.quarantined),
        )
        if not intake.keys:
            raise InputError(
                f"Collection '{folder.name}' has no usable chunk "
                f"(set aside: {len(intake.quarantined)}).",
                cure=f"Look at the files in {folder.path}.",
            )
        places, hashes = intake.in_row_order()
        return cls(folder.name, spool, places, hashes, conservation)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Chunk]:
        return (self.chunk(row) for row in range(len(self)))

    def chunk(self, row: int) -> Chunk:
        """Return the chunk at `row`."""
        record = orjson.loads(self._record(row))
        return Chunk(collection=self.collection, **record)

    def text(self, row: int) -> str:
        """Return the text at `row`."""
        return self.chunk(row).text

    def source_subdirs(self) -> Iterator[str]:
        """Yield the source_subdir of each row."""
        return (chunk.source_subdir for chunk in self)

    def text_hash(self, row: int) -> bytes:
        """Return the SHA-256 of the text at `row`, 32 bytes."""
        return bytes(self._hashes[row])

    @property
    def text_hashes(self) -> npt.NDArray[np.uint8]:
        """The SHA-256 of each row's text, uint8 [rows, 32]."""
        return self._hashes

    def first_rows_of_texts(self) -> Int64Array:
        """Return int64 [rows]: for each row, the first row that has the same text."""
        packed = np.ascontiguousarray(self._hashes).view(f"V{_DIGEST_BYTES}").ravel()
        _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
        return first.astype(np.int64)[inverse]

    def _record(self, row: int) -> bytes:
        start, length = self._places[row].tolist()
        return self._bytes[start : start + length]

    def _digest(self) -> str:
        digest = hashlib.sha256(self.collection.encode())
        for row in range(len(self)):
            digest.update(self._record(row))
        return digest.hexdigest()


def _quarantine_event(collection: str, item: Quarantined) -> ItemQuarantined:
    return ItemQuarantined(
        collection=collection,
        file=item.file,
        index=item.index,
        reason=item.reason,
        detail=item.detail,
    )


class _Intake:
    """Takes what was read: usable chunks to the spool, the rest to a list."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0
        self._ids: set[bytes] = set()
        self._starts = array("q")
        self._lengths = array("q")
        self._hashes = bytearray()
        self.keys: list[tuple[bytes, bytes, int]] = []
        self.quarantined: list[Quarantined] = []
        self.chunks_read = 0

    def take(self, item: Chunk | Quarantined, file: str) -> None:
        """Count one entry and put it where it belongs."""
        self.chunks_read += not (isinstance(item, Quarantined) and item.index is None)
        if isinstance(item, Quarantined):
            self.quarantined.append(item)
            return
        identity = hashlib.blake2b(item.chunk_id.encode(), digest_size=16).digest()
        if identity in self._ids:
            self._set_aside(item, file, "duplicate_id", item.chunk_id)
            return
        try:
            record = orjson.dumps(
                {
                    "chunk_id": item.chunk_id,
                    "source_subdir": item.source_subdir,
                    "filename": item.filename,
                    "index": item.index,
                    "text": item.text,
                    "metadata": item.metadata,
                }
            )
        except TypeError as error:  # NaN, huge integer, lone surrogate, deep nesting
            self._set_aside(item, file, "metadata_not_json", str(error)[:100])
            return
        self._ids.add(identity)
        self._write(item, record)

    def _set_aside(self, chunk: Chunk, file: str, reason: str, detail: str) -> None:
        self.quarantined.append(Quarantined(file, chunk.index, reason, detail))

    def _write(self, chunk: Chunk, record: bytes) -> None:
        self._stream.write(record + b"\n")
        self._starts.append(self._offset)
        self._lengths.append(len(record))
        self._offset += len(record) + 1
        self._hashes += hashlib.sha256(chunk.text.encode()).digest()
        key = self._file_key(chunk)
        self.keys.append((*key, chunk.index))

    def _file_key(self, chunk: Chunk) -> tuple[bytes, bytes]:
        """Share one pair among the chunks of a file: a million keys stay small."""
        key = (chunk.source_subdir.encode(), chunk.filename.encode())
        if self.keys and self.keys[-1][:2] == key:
            return self.keys[-1][0], self.keys[-1][1]
        return key

    def in_row_order(self) -> tuple[Int64Array, npt.NDArray[np.uint8]]:
        """Return places int64 [rows, 2] and text hashes uint8 [rows, 32]."""
        order = np.array(
            sorted(range(len(self.keys)), key=self.keys.__getitem__), dtype=np.int64
        )
        places = np.column_stack(
            (
                np.frombuffer(self._starts, dtype=np.int64),
                np.frombuffer(self._lengths, dtype=np.int64),
            )
        )[order]
        hashes = np.frombuffer(self._hashes, dtype=np.uint8)
        return places, hashes.reshape(-1, _DIGEST_BYTES)[order]
