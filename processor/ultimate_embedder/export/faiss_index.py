"""FAISS indexes of a bundle: the only place that knows the library.

A hit's id is the row number. An exact index holds all vectors in memory while it is
written: rows x dimension x 4 bytes beside the memory-mapped input. FAISS reads a file
with flipped bits without complaint; the sums of the bundle find them.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import BundleError, RunStopped, UsageError
from ..records import Float32Array, Int64Array
from .checksums import HashedFile
from .vectors import BLOCK_ROWS

EXACT = "Flat"
_TRAINING_ROWS = 100_000


def require_faiss() -> ModuleType:
    """Return the library.

    Raises:
        UsageError: it is not installed; says how to do without.
        RunStopped: it is installed and cannot be loaded, for want of memory perhaps.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise UsageError(
            "A FAISS index was asked for and faiss is not installed.",
            cure="Install faiss-cpu, or leave faiss out: --exports npy,jsonl.",
        ) from error
    except ImportError as error:
        raise RunStopped(
            f"faiss cannot be loaded: {error}.",
            cure="Give the process more memory or mend the installation; or leave "
            "faiss out: --exports npy,jsonl.",
        ) from error
    module: ModuleType = faiss
    return module


def write_index(
    path: Path, vectors: Float32Array, *, factory: str = EXACT
) -> HashedFile:
    """Write an inner-product index over float32 [rows, dim]; return the closed file.

    `factory` is a FAISS factory string. Others than `Flat` are approximate and are
    trained on evenly spaced rows, at most 100,000.

    Raises:
        UsageError: faiss is missing, or the factory cannot be built over these rows.
        OSError: the file cannot be written.
    """
    faiss = require_faiss()
    index = _build(faiss, vectors, factory)
    with HashedFile(path) as file:
        writer = faiss.PyCallbackIOWriter(file.write)
        faiss.write_index(index, writer)
    return file


def _build(faiss: ModuleType, vectors: Float32Array, factory: str) -> Any:
    rows, dimension = vectors.shape
    matrix = np.ascontiguousarray(vectors)
    if factory == EXACT:
        index = faiss.IndexFlatIP(dimension)
        if rows:
            index.add(matrix)  # one call: the index allocates exactly what it needs
        return index
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(matrix[:: max(1, -(-rows // _TRAINING_ROWS))])
        index.add(matrix)
    except RuntimeError as error:
        raise UsageError(
            f"FAISS cannot build '{factory}' over {rows} vectors of width {dimension}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return index


class FaissIndex:
    """An index of a bundle, opened for searching. Flat data stay memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            BundleError: it is not a FAISS index.
            UsageError: faiss is not installed.
        """
        faiss = require_faiss()
        try:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleError(
                f"{path.name} is not a FAISS index.",
                cure="Restore a copy of the bundle or build it anew.",
            ) from error
        self.exact = isinstance(self._index, faiss.IndexFlat)
        self.inner_product = self._index.metric_type == faiss.METRIC_INNER_PRODUCT

    @property
    def rows(self) -> int:
        """Number of vectors."""
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return int(self._index.d)

    def block(self, start: int) -> Float32Array:
        """Return the stored rows from `start` on, float32 [at most BLOCK_ROWS, dim]."""
        count = min(BLOCK_ROWS, self.rows - start)
        rows: Float32Array = self._index.reconstruct_n(start, count)
        return rows

    def search(
        self, queries: Float32Array, top_k: int
    ) -> tuple[Int64Array, Float32Array]:
        """Return rows int64 and inner products float32, both [queries, top_k]."""
        scores, rows = self._index.search(np.ascontiguousarray(queries), top_k)
        return rows, scores
