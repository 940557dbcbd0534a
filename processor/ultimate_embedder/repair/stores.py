"""Where texts, metadata and ids can be had from: each a store in row order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..export.jsonl import read_points
from ..export.strict_json import read_lines
from ..intake.chunk_store import ChunkStore
from ..intake.chunks import find_collections
from ..records import Chunk, Metadata
from ..telemetry.events import silent


def chunk_of(chunk_id: str, text: str = "", metadata: Metadata | None = None) -> Chunk:
    """Return a chunk as far as the files of a bundle know it."""
    return Chunk(
        chunk_id=chunk_id,
        collection="",
        source_subdir="",
        filename="",
        index=0,
        text=text,
        metadata=metadata or {},
    )


@dataclass(frozen=True, slots=True)
class IdStore:
    """Chunks without text, from an undamaged ids file."""

    path: Path
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Chunk]:
        return (chunk_of(record["chunk_id"]) for record in id_records(self.path))


@dataclass(frozen=True, slots=True)
class PointStore:
    """Chunks with text and metadata, from an undamaged points file."""

    path: Path
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Chunk]:
        for point in read_points(self.path):
            yield chunk_of(point.chunk_id, point.text, point.metadata)


def id_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of an undamaged ids file."""
    return (orjson.loads(line.content) for line in read_lines(path))


def open_chunks(
    chunked_dir: Path | None, collection: str, scratch: Path
) -> ChunkStore | None:
    """Return the collection's chunks, read from its chunk files; None: not there.

    Raises:
        UsageError: `chunked_dir` is no folder.
        InputError: there is no usable chunk.
    """
    if chunked_dir is None:
        return None
    folders = {folder.name: folder for folder in find_collections(chunked_dir)}
    if collection not in folders:
        return None
    return ChunkStore.build(folders[collection], scratch / "chunks", silent)
