"""Exact search over a collection's vectors, dense and sparse, in bounded memory.

Both indexes answer with a `RankedList`: best first, equal scores by rising row. A row's
score depends on the query and that row alone, to the last bit, so that equal vectors
tie wherever they stand; matrix products, whose last bits vary with the shape, only
preselect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..records import (
    Float32Array,
    Int64Array,
    RankedList,
    SparseVector,
)
from .postings import Postings, idf
from .ranking import Float64Array, ranked

BoolArray = npt.NDArray[np.bool_]

BLOCK_BYTES = 64 * 2**20
_QUERY_GROUP = 64  # bounds [queries, rows of a block] for long lists of queries
_EMPTY_ROWS = np.empty(0, dtype=np.int64)


class DenseIndex:
    """Inner products with unit vectors, read block by block.

    Shapes: `vectors` float32 [rows, dim], each row of unit L2 norm; may be memory-
    mapped. `block_bytes` bounds how much of it is read at a time.
    """

    def __init__(
        self, vectors: Float32Array, *, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self.vectors = vectors
        row_bytes = max(1, vectors.shape[1] * vectors.itemsize)
        self._block_rows = max(1, block_bytes // row_bytes)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self, query: Float32Array, k: int, allowed: BoolArray | None = None
    ) -> RankedList:
        """Return the best `k` rows for one query, among those allowed.

        Shapes: `query` [dim]; `allowed` [rows] or None for all.
        """
        return self.search_batch(query[np.newaxis, :], k, allowed)[0]

    def search_batch(
        self, queries: Float32Array, k: int, allowed: BoolArray | None = None
    ) -> list[RankedList]:
        """Return what `search` returns for each query, reading the vectors less often.

        Shapes: `queries` [queries, dim].
        """
        results: list[RankedList] = []
        for start in range(0, len(queries), _QUERY_GROUP):
            group = np.asarray(queries[start : start + _QUERY_GROUP], dtype=np.float32)
            for query, rows in zip(
                group, self._preselect(group, k, allowed), strict=True
            ):
                results.append(ranked(rows, self.scores(query, rows), k))
        return results

    def scores(self, query: Float32Array, rows: Int64Array) -> Float64Array:
        """Return the inner products of a query with the rows named: float64 [rows]."""
        found = np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), self._block_rows):
            part = rows[start : start + self._block_rows]
            found[start : start + len(part)] = dot(query, self.vectors[part])
        return found

    def _preselect(
        self, queries: Float32Array, k: int, allowed: BoolArray | None
    ) -> list[Int64Array]:
        """Return for each query every row that may be among its best `k`."""
        # Twice the bound on a float32 inner product's rounding error, |q| |v| n eps.
        norms = np.linalg.norm(queries, axis=1)
        slack = 2.0 * norms * queries.shape[1] * np.finfo(np.float32).eps
        kept: list[tuple[Int64Array, Float32Array]] = [
            (_EMPTY_ROWS, np.empty(0, dtype=np.float32)) for _ in queries
        ]
        for start in range(0, len(self.vectors) if k > 0 else 0, self._block_rows):
            rows = np.arange(start, min(start + self._block_rows, len(self.vectors)))
            if allowed is not None:
                rows = rows[allowed[rows]]
            if not len(rows):
                continue
            whole = allowed is None or len(rows) == rows[-1] - rows[0] + 1
            block = (
                self.vectors[rows[0] : rows[-1] + 1] if whole else self.vectors[rows]
            )
            products = queries @ np.asarray(block).T
            for place, values in enumerate(products):
                known_rows, known_values = kept[place]
                kept[place] = _near_best(
                    np.concatenate((known_rows, rows)),
                    np.concatenate((known_values, values)),
                    k,
                    slack[place],
                )
        return [rows for rows, _ in kept]


class SparseIndex:
    """Inner products of sparse vectors through inverted lists.

    `score = sum over shared terms of query value * document value`, times
    `ln(1 + (N - df + 0.5) / (df + 0.5))` where `idf` is on: Qdrant's `modifier: idf`.
    """

    def __init__(self, postings: Postings, *, idf: bool) -> None:
        self._postings = postings
        self._idf = idf

    def __len__(self) -> int:
        return self._postings.documents

    def search(
        self, query: SparseVector, k: int, allowed: BoolArray | None = None
    ) -> RankedList:
        """Return the best `k` rows that score above zero, among those allowed.

        All others score 0 where there are no more than `k`. Shapes: `allowed` [rows]
        or None for all.
        """
        places, weights = self._weights(query)
        if k <= 0 or not len(places):
            return ranked(_EMPTY_ROWS, np.empty(0))
        totals = np.zeros(len(self), dtype=np.float64)
        offsets, postings = self._postings.offsets, self._postings
        for place, weight in zip(places, weights, strict=True):
            span = slice(int(offsets[place]), int(offsets[place + 1]))
            totals[postings.rows[span]] += weight * postings.values[span]
        if allowed is not None:
            totals[~allowed] = 0.0
        rows = np.flatnonzero(totals > 0.0)
        rest = 0.0 if len(rows) <= k else None
        return replace(ranked(rows, totals[rows], k), rest=rest)

    def search_batch(
        self, queries: Sequence[SparseVector], k: int, allowed: BoolArray | None = None
    ) -> list[RankedList]:
        """Return what `search` returns for each query."""
        return [self.search(query, k, allowed) for query in queries]

    def score(self, query: SparseVector, document: SparseVector) -> float:
        """Return the score of a vector that is not in the index, with the index's IDF.

        The sum runs over terms in rising order, as in `search`.
        """
        places, weights = self._weights(query)
        terms = self._postings.terms[places]
        _, left, right = np.intersect1d(
            terms, document.indices, assume_unique=True, return_indices=True
        )
        total = 0.0
        for weight, value in zip(weights[left], document.values[right], strict=True):
            total += float(weight * np.float64(value))
        return total

    def _weights(self, query: SparseVector) -> tuple[Int64Array, Float64Array]:
        """Return where the query's terms stand in the lists, and what they weigh."""
        terms, offsets = self._postings.terms, self._postings.offsets
        places = np.searchsorted(terms, query.indices)
        found = places < len(terms)
        found[found] = terms[places[found]] == query.indices[found]
        places, weights = places[found], query.values[found].astype(np.float64)
        if self._idf:
            frequencies = offsets[places + 1] - offsets[places]
            weights = weights * idf(self._postings.population, frequencies)
        return places, weights


def dot(query: Float32Array, vectors: Float32Array) -> Float64Array:
    """Return inner products in float64, each row added up the same way.

    Shapes: `query` [dim]; `vectors` [rows, dim]; result [rows].
    """
    products: Float64Array = np.multiply(vectors, query, dtype=np.float64)
    sums: Float64Array = np.add.reduce(products, axis=1)
    return sums


def _near_best(
    rows: Int64Array, values: Float32Array, k: int, slack: float
) -> tuple[Int64Array, Float32Array]:
    if len(rows) <= k:
        return rows, values
    edge = np.partition(values, len(values) - k)[len(values) - k]
    keep = values >= edge - slack
    return rows[keep], values[keep]
