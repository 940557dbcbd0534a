"""The text files of a bundle: points, ids, sparse vectors, reranked candidates.

Each writer streams, one row at a time, from the store and memory-mapped vectors, and
returns the closed file with its digest and the number of its lines. The readers give
back what was written, floats bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from ..config import JsonlLayout
from ..errors import BundleError, InputError
from ..records import (
    Chunk,
    Float32Array,
    Metadata,
    SparseMatrix,
    SparseVector,
    point_id,
    text_sha256,
)
from .checksums import HashedFile
from .strict_json import dumps, non_finite_place, read_lines, to_float32
from .vectors import BLOCK_ROWS, checked_block

RERANK_FIELDS = (
    "query_id",
    "query",
    "candidate_ids",
    "scores",
    "cross_scores",
    "fused_scores",
    "dense_scores",
    "sparse_scores",
)


class ChunkSource(Protocol):
    """Chunks in row order."""

    def __len__(self) -> int:
        """Number of rows."""

    def __iter__(self) -> Iterator[Chunk]:
        """Iterate over the rows."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A file of lines that is on the disk."""

    rows: int
    bytes_written: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the points file, in either layout.

    `dense` holds float32 [dim] by model key (layout `simple`: the one under
    `embedding`); `point_id` is None in layout `simple`.
    """

    point_id: str | None
    chunk_id: str
    text: str
    metadata: Metadata
    dense: dict[str, Float32Array]
    sparse: dict[str, SparseVector] = field(default_factory=dict)


def write_ids(path: Path, store: ChunkSource) -> Lines:
    """Write a line {row, point_id, chunk_id, text_sha256} for each chunk."""
    return _write_lines(
        path,
        (
            dumps(
                {
                    "row": row,
                    "point_id": point_id(chunk.chunk_id),
                    "chunk_id": chunk.chunk_id,
                    "text_sha256": text_sha256(chunk.text),
                }
            )
            for row, chunk in enumerate(store)
        ),
    )


def write_sparse(
    path: Path, store: ChunkSource, matrices: Mapping[str, SparseMatrix]
) -> Lines:
    """Write a line {chunk_id, <key>: {indices, values}, ...} for each chunk.

    Raises:
        BundleError: a vector breaks the rules of `SparseVector`; names model and row.
    """
    vectors = _sparse_rows(matrices, len(store))
    return _write_lines(
        path,
        (
            dumps({"chunk_id": chunk.chunk_id, **found})
            for chunk, found in zip(store, vectors, strict=True)
        ),
    )


def write_points(
    path: Path,
    store: ChunkSource,
    dense: Mapping[str, Float32Array],
    sparse: Mapping[str, SparseMatrix],
    *,
    layout: JsonlLayout = "qdrant",
) -> Lines:
    """Write one point a line; `dense` is float32 [rows, dim] by key, primary first.

    Raises:
        BundleError: a vector is not finite, or a sparse one breaks its rules.
        InputError: metadata of a chunk cannot be JSON; names the chunk.
    """
    shape = _qdrant_point if layout == "qdrant" else _simple_point

    def lines() -> Iterator[bytes]:
        blocks: dict[str, Float32Array] = {}
        found = _sparse_rows(sparse, len(store))
        for row, (chunk, terms) in enumerate(zip(store, found, strict=True)):
            place = row % BLOCK_ROWS
            if place == 0:
                blocks = {key: checked_block(key, v, row) for key, v in dense.items()}
            vectors = {key: block[place] for key, block in blocks.items()}
            yield _point_line(chunk, shape(chunk, vectors, terms))

    return _write_lines(path, lines())


def write_rerank(path: Path, records: Iterable[Mapping[str, Any]]) -> Lines:
    """Write a line for each query: the contract's fields first, others after them.

    Raises:
        InputError: a record holds something that cannot be JSON; names the query.
    """
    return _write_lines(path, (_rerank_line(record) for record in records))


def read_points(path: Path) -> Iterator[Point]:
    """Yield the points of a file in row order, whichever its layout.

    Raises:
        BundleError: a line is no point; names the line.
    """
    for line in read_lines(path):
        try:
            yield parse_point(orjson.loads(line.content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                f"Line {line.number} of {path.name} is no point: {error}.",
                cure="Restore a copy of the bundle or build it anew.",
            ) from error


def parse_point(record: Any) -> Point:
    """Return the point that a parsed line holds.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it has another shape.
    """
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if "embedding" in record:
        vectors: Mapping[str, Any] = {"embedding": record["embedding"]}
        return Point(
            None, record["id"], record["text"], record["metadata"], _dense(vectors)
        )
    payload, vectors = record["payload"], record["vector"]
    sparse = {key: v for key, v in vectors.items() if isinstance(v, dict)}
    return Point(
        record["id"],
        payload["chunk_id"],
        payload["text"],
        payload["metadata"],
        _dense({key: v for key, v in vectors.items() if key not in sparse}),
        {key: parse_sparse(vector) for key, vector in sparse.items()},
    )


def parse_sparse(vector: Mapping[str, Any]) -> SparseVector:
    """Return the sparse vector that a parsed {indices, values} holds.

    Raises:
        ValueError, KeyError, TypeError: it has another shape.
    """
    indices = vector["indices"]
    if not all(type(index) is int and 0 <= index < 2**32 for index in indices):
        raise ValueError("an index is no unsigned 32-bit integer")
    values = to_float32(vector["values"])
    if len(indices) != len(values):
        raise ValueError(f"{len(indices)} indices and {len(values)} values")
    return SparseVector(np.array(indices, dtype=np.uint32), values)


def sparse_fault(vector: SparseVector) -> str | None:
    """Return which rule of `SparseVector` is broken, or None."""
    if len(vector.indices) > 1 and (vector.indices[1:] <= vector.indices[:-1]).any():
        return "indices do not ascend"
    if not np.isfinite(vector.values).all():
        return "a value is not finite"
    if not vector.values.all():
        return "a value is zero"
    return None


def _write_lines(path: Path, lines: Iterable[bytes]) -> Lines:
    rows = 0
    with HashedFile(path) as file:
        for line in lines:
            file.write(line)
            rows += 1
    return Lines(rows, file.bytes_written, file.sha256)


def _dense(vectors: Mapping[str, Any]) -> dict[str, Float32Array]:
    return {key: to_float32(numbers) for key, numbers in vectors.items()}


def _sparse_rows(
    matrices: Mapping[str, SparseMatrix], rows: int
) -> Iterator[dict[str, Any]]:
    """Yield each row's vectors, looked at in blocks before they are written.

    Raises:
        BundleError: a vector breaks the rules of `SparseVector`; names model and row.
    """
    for start in range(0, rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        parts = {key: matrix.part(start, stop) for key, matrix in matrices.items()}
        for key, part in parts.items():
            _check_sparse(key, part, start, stop - start)
        bounds = {key: part.indptr.tolist() for key, part in parts.items()}
        for place in range(stop - start):
            row = {}
            for key, part in parts.items():
                first, beyond = bounds[key][place : place + 2]
                row[key] = {
                    "indices": part.indices[first:beyond],
                    "values": part.values[first:beyond],
                }
            yield row


def _check_sparse(key: str, part: SparseMatrix, first_row: int, rows: int) -> None:
    if len(part) != rows or (np.diff(part.indptr) < 0).any():
        raise BundleError(
            f"The sparse vectors of model '{key}' are damaged: their bounds do not "
            f"give rows {first_row} to {first_row + rows - 1}.",
            cure="Compute this model anew: --fresh.",
        )
    follows = np.ones(len(part.indices), dtype=bool)  # no row's first entry
    heads = part.indptr[:-1]
    follows[heads[heads < len(follows)]] = False
    rising = part.indices[1:] > part.indices[:-1]
    sound = rising[follows[1:]].all() and np.isfinite(part.values).all()
    if sound and part.values.all():
        return
    faults = ((row, sparse_fault(vector)) for row, vector in enumerate(part, first_row))
    row, fault = next((row, fault) for row, fault in faults if fault)
    raise BundleError(
        f"The sparse vector of model '{key}' in row {row} is damaged: {fault}.",
        cure="Compute this model anew: --fresh.",
    )


def _qdrant_point(
    chunk: Chunk, dense: dict[str, Float32Array], sparse: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": point_id(chunk.chunk_id),
        "vector": {**dense, **sparse},
        "payload": {
            "chunk_id": chunk.chunk_id,
            "text": chunk.text,
            "metadata": chunk.metadata,
        },
    }


def _simple_point(
    chunk: Chunk, dense: dict[str, Float32Array], _sparse: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": chunk.chunk_id,
        "text": chunk.text,
        "embedding": next(iter(dense.values())),
        "metadata": chunk.metadata,
    }


def _point_line(chunk: Chunk, record: dict[str, Any]) -> bytes:
    try:
        return _line(record, chunk.metadata)
    except ValueError as error:
        raise InputError(
            f"Metadata of chunk {chunk.chunk_id!r} cannot be JSON: {error}.",
            cure="Mend the chunk file.",
        ) from error


def _rerank_line(record: Mapping[str, Any]) -> bytes:
    ordered = {key: record[key] for key in RERANK_FIELDS if key in record}
    ordered |= {key: record[key] for key in record if key not in ordered}
    try:
        return _line(ordered, ordered)
    except ValueError as error:
        raise InputError(
            f"Query {record.get('query_id')!r} cannot be written: {error}.",
            cure="Mend the file of queries.",
        ) from error


def _line(record: dict[str, Any], to_check: dict[str, Any]) -> bytes:
    line = dumps(record)  # writes what is not finite as null
    if b"null" in line and (place := non_finite_place(to_check)):
        raise ValueError(f"{place} is not a finite number")
    return line
