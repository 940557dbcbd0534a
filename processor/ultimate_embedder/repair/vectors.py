"""Dense and sparse vectors from whichever file of a bundle still has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import BundleError
from ..export.faiss_index import FaissIndex
from ..export.jsonl import read_points
from ..export.strict_json import read_lines
from ..export.vectors import BLOCK_ROWS, header, open_vectors
from ..records import Float32Array, SparseMatrix, SparseVector
from ..retrieval.sparse_files import MatrixWriter, open_matrix
from ..verify.sparse import parse_sparse_row
from .bench import Bench

_ARRAYS = ("terms", "offsets", "rows", "values")


def dense_vectors(
    bench: Bench, key: str, *, without: str
) -> tuple[Float32Array, str] | None:
    """Return a model's vectors, float32 [rows, dim], and the file they are from.

    `without` names the file that they are wanted for. None: no file has them.

    Raises:
        BundleError: a file whose sum holds cannot be read.
        UsageError: faiss is needed and not installed.
    """
    names = bench.names
    npy, points, index = names.dense(key), names.points, names.index(key)
    if npy in bench.good and npy != without:
        return open_vectors(bench.good[npy]), npy
    held = not bench.simple or key == bench.dense_keys[0]
    if points in bench.good and points != without and held:
        return _from_points(bench, key), points
    if index in bench.good and index != without:
        found = _from_index(bench, key)
        return None if found is None else (found, index)
    return None


def _from_points(bench: Bench, key: str) -> Float32Array:
    name = "embedding" if bench.simple else key
    points = read_points(bench.good[bench.names.points])
    return _spooled(bench, (point.dense[name][None, :] for point in points))


def _from_index(bench: Bench, key: str) -> Float32Array | None:
    index = FaissIndex(bench.good[bench.names.index(key)])
    if not index.exact:
        return None
    starts = range(0, index.rows, BLOCK_ROWS)
    return _spooled(bench, (index.block(start) for start in starts))


def _spooled(bench: Bench, blocks: Iterator[Float32Array]) -> Float32Array:
    """Write blocks to a scratch file and return them memory-mapped."""
    path, rows, width = bench.new_path(), 0, 0
    with path.open("wb") as stream:
        stream.write(header(0, 0))
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
            rows, width = rows + len(block), block.shape[1]
        stream.seek(0)
        begin = header(rows, width)
        if len(begin) != len(header(0, 0)):
            raise BundleError("The vectors do not fit a scratch file.")
        stream.write(begin)
    return open_vectors(path)


def sparse_rows(
    bench: Bench, key: str, *, without: str
) -> tuple[SparseMatrix, str] | None:
    """Return a sparse model's vectors by row and the file they are from.

    Raises:
        BundleError: a file whose sum holds cannot be read.
    """
    names = bench.names
    if names.sparse in bench.good and without != names.sparse:
        lines = read_lines(bench.good[names.sparse])
        records = (parse_sparse_row(orjson.loads(line.content)) for line in lines)
        return _matrix(bench, (r.vectors[key] for r in records)), names.sparse
    if names.points in bench.good and without != names.points and not bench.simple:
        points = read_points(bench.good[names.points])
        return _matrix(bench, (point.sparse[key] for point in points)), names.points
    folder = names.postings(key)
    if without != folder and all(_array(folder, n) in bench.good for n in _ARRAYS):
        return _transposed(bench, folder), folder
    return None


def _matrix(bench: Bench, vectors: Iterator[SparseVector]) -> SparseMatrix:
    folder = bench.new_path()
    folder.mkdir()
    with MatrixWriter(folder) as writer:
        for vector in vectors:
            writer.append(vector)
    return open_matrix(folder)


def _transposed(bench: Bench, folder: str) -> SparseMatrix:
    """Return inverted lists by row: all entries in memory, 16 bytes each."""
    arrays = [_load(bench.good[_array(folder, name)]) for name in _ARRAYS]
    terms, offsets, rows, values = arrays
    of_entry = np.repeat(terms, np.diff(offsets))
    order = np.lexsort((of_entry, rows))
    counts = np.bincount(rows, minlength=bench.manifest.chunk_count)
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return SparseMatrix(indptr, of_entry[order], values[order])


def _load(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path)
    return array


def _array(folder: str, name: str) -> str:
    return f"{folder}/{name}.npy"
