"""The values that travel between the parts. They know nobody.

Arrays inside a record are to be read, not written.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]

Attended = tuple[UInt32Array, Float32Array]
"""A text's token ids, special tokens included, and for each the [CLS] attention of the
last layer, averaged over heads: both [length]."""
Metadata = dict[str, Any]

POINT_NAMESPACE = uuid.UUID("6f0d8f0e-2c0a-5c7e-9d43-7d3a1c5b8e21")
"""Fixed for good: a point id must stay the same over releases."""

QUERY_PREVIEW_CHARACTERS = 100


def point_id(chunk_id: str) -> str:
    """Return the UUIDv5 (RFC 9562) of a chunk id in the project's namespace."""
    return str(uuid.uuid5(POINT_NAMESPACE, chunk_id))


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one source file, as it will be embedded."""

    chunk_id: str
    collection: str
    source_subdir: str
    filename: str
    index: int
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A chunk or file that was not used, where it is, and why."""

    file: str  # relative to the collection folder
    index: int | None  # position in the file; None: the whole file
    reason: str  # a short code: unreadable, not_json, no_text, duplicate_id, ...
    detail: str = ""  # for people; never text of a document


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Indices ascend and are unique; values are finite and not zero.

    Shapes: both [nnz]. An empty vector is two empty arrays.
    """

    indices: UInt32Array
    values: Float32Array

    def __len__(self) -> int:
        return len(self.indices)


class SparseMatrix(Sequence[SparseVector]):
    """Sparse vectors by row, in compressed rows (CSR); may be memory-mapped.

    Shapes: `indptr` int64 [rows + 1]; `indices` uint32 [nnz]; `values` float32 [nnz].
    """

    def __init__(
        self, indptr: Int64Array, indices: UInt32Array, values: Float32Array
    ) -> None:
        self.indptr = indptr
        self.indices = indices
        self.values = values

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @overload
    def __getitem__(self, row: int) -> SparseVector: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[SparseVector]: ...

    def __getitem__(self, row: int | slice) -> SparseVector | Sequence[SparseVector]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        start, stop = self.indptr[row % len(self)], self.indptr[row % len(self) + 1]
        return SparseVector(self.indices[start:stop], self.values[start:stop])

    def __iter__(self) -> Iterator[SparseVector]:
        return (self[row] for row in range(len(self)))

    def part(self, start: int, stop: int) -> SparseMatrix:
        """Return rows from `start` to before `stop`, as copies in memory."""
        bounds = np.array(self.indptr[start : stop + 1], dtype=np.int64)
        first, beyond = bounds[0], bounds[-1]
        return SparseMatrix(
            bounds - first,
            np.array(self.indices[first:beyond], dtype=np.uint32),
            np.array(self.values[first:beyond], dtype=np.float32),
        )


@dataclass(frozen=True, slots=True)
class RankedList:
    """Rows of a collection, best first, with their scores.

    Shapes: `rows` int64 [k]; `scores` float64 [k], never rising. Rows with equal
    scores stand in ascending order: row order is id order.

    `rest` is the score of every row that is not listed, where all have the same: 0 for
    a sparse list that ends because no further row shares a term. None: not known.
    """

    rows: Int64Array
    scores: npt.NDArray[np.float64]
    rest: float | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Query:
    """A question with its id: `relevant_rows` is empty unless the answer is known."""

    query_id: str
    text: str
    relevant_rows: tuple[int, ...] = ()


class RunHeader(BaseModel):
    """What run headers in the manifest have in common."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    run_id: str
    latency_ms: float = Field(ge=0)


class SparseInferenceRun(RunHeader):
    """One sparse model over one collection.

    `document_sparse_vectors` and `query_sparse_vector` name files and fields of the
    bundle or are absent; the vectors themselves stand in the sparse file.
    """

    sparse_model: str
    query_sparse_vector: dict[str, list[float]] | None = None
    document_sparse_vectors: str | None = None
    fallback_used: bool = False
    fallback_reason: str | None = None
    coverage: float = Field(ge=0, le=1)
    statistics: dict[str, Any] = Field(default_factory=dict)


class CrossEncoderRerankRun(RunHeader):
    """One query reranked. `scores[i]` belongs to `candidate_ids[i]`."""

    query: str = Field(max_length=QUERY_PREVIEW_CHARACTERS)
    candidate_ids: list[str]
    scores: list[float]
    batch_size: int = Field(ge=1)
    gpu_peak_gb: float | None = None
