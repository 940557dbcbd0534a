"""Exact search against plain NumPy, qdrant-edge and qdrant-client's local mode."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from processor.ultimate_embedder.records import (
    Float32Array,
    RankedList,
    SparseVector,
)
from processor.ultimate_embedder.retrieval.indexes import (
    DenseIndex,
    SparseIndex,
    dot,
)
from processor.ultimate_embedder.retrieval.postings import Postings
from processor.ultimate_embedder.retrieval.ranking import (
    rank_of,
    ranked,
    replace_score,
)

edge = pytest.importorskip("qdrant_edge")

Documents = list[dict[int, float]]


def unit_vectors(rows: int, dim: int, seed: int) -> Float32Array:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def plain_search(
    vectors: Float32Array, query: Float32Array, k: int, allowed: npt.NDArray[np.bool_]
) -> list[int]:
    """Sort every allowed row by (score in float64, row)."""
    exact = [math.fsum(row) for row in vectors.astype(float) * query.astype(float)]
    rows = sorted(
        np.flatnonzero(allowed), key=lambda row: (-round(exact[row], 12), row)
    )
    return [int(row) for row in rows[:k]]


@given(
    rows=st.integers(1, 60),
    dim=st.integers(1, 24),
    k=st.integers(0, 70),
    block_rows=st.integers(1, 64),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_dense_search_is_a_full_sort_whatever_the_blocks_and_the_mask(
    rows: int, dim: int, k: int, block_rows: int, seed: int, data: st.DataObject
) -> None:
    vectors = unit_vectors(rows, dim, seed)
    vectors[rows // 2 :] = vectors[: rows - rows // 2]  # equal rows must tie
    queries = unit_vectors(3, dim, seed + 1)
    flags = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    allowed = data.draw(st.sampled_from([None, np.array(flags)]))
    index = DenseIndex(vectors, block_bytes=block_rows * dim * 4)
    mask = np.ones(rows, dtype=bool) if allowed is None else allowed
    batch = index.search_batch(queries, k, allowed)
    for query, result in zip(queries, batch, strict=True):
        assert result.rows.tolist() == plain_search(vectors, query, k, mask)
        alone = index.search(query, k, allowed)
        assert alone.rows.tolist() == result.rows.tolist()
        assert alone.scores.tobytes() == result.scores.tobytes()


def test_equal_vectors_score_equal_to_the_last_bit_and_stand_by_row() -> None:
    vectors = unit_vectors(1000, 384, 0)
    vectors[[3, 517, 998]] = vectors[41]
    result = DenseIndex(vectors, block_bytes=100 * 384 * 4).search(vectors[41], 5)
    assert result.rows.tolist()[:4] == [3, 41, 517, 998]
    assert len(set(result.scores.tolist()[:4])) == 1


def test_a_dense_score_does_not_depend_on_the_rows_beside_it() -> None:
    vectors, query = unit_vectors(50, 384, 2), unit_vectors(1, 384, 3)[0]
    together = dot(query, vectors)
    alone = np.concatenate([dot(query, row[np.newaxis]) for row in vectors])
    assert together.tobytes() == alone.tobytes()


def test_vectors_may_be_memory_mapped(tmp_path: Path) -> None:
    vectors = unit_vectors(300, 16, 4)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    query = unit_vectors(1, 16, 5)[0]
    there = DenseIndex(mapped, block_bytes=4096).search(query, 10)
    here = DenseIndex(vectors).search(query, 10)
    assert there.rows.tolist() == here.rows.tolist()
    assert there.scores.tobytes() == here.scores.tobytes()


def inverted(documents: Documents) -> Postings:
    """Make inverted lists the plain way."""
    triples = sorted(
        (term, row, value)
        for row, document in enumerate(documents)
        for term, value in document.items()
    )
    terms = sorted({term for term, _, _ in triples})
    counts = [sum(1 for t, _, _ in triples if t == term) for term in terms]
    return Postings(
        terms=np.array(terms, dtype=np.uint32),
        offsets=np.cumsum([0, *counts]).astype(np.int64),
        rows=np.array([row for _, row, _ in triples], dtype=np.int32),
        values=np.array([value for _, _, value in triples], dtype=np.float32),
        documents=len(documents),
        average_length=None,
    )


def sparse(vector: dict[int, float]) -> SparseVector:
    terms = sorted(vector)
    return SparseVector(
        np.array(terms, dtype=np.uint32),
        np.array([vector[term] for term in terms], dtype=np.float32),
    )


def plain_sparse(
    documents: Documents, query: dict[int, float], idf: bool
) -> dict[int, float]:
    found = {}
    for row, document in enumerate(documents):
        total = 0.0
        for term in query.keys() & document.keys():
            df = sum(term in other for other in documents)
            weight = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            total += query[term] * document[term] * (weight if idf else 1.0)
        if total > 0:
            found[row] = total
    return found


weights = st.integers(1, 64).map(lambda value: value / 16)
vectors = st.dictionaries(st.integers(0, 2**32 - 1), weights, max_size=6) | (
    st.dictionaries(st.integers(0, 8), weights, min_size=1, max_size=6)
)


@given(st.lists(vectors, max_size=25), vectors, st.booleans(), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_sparse_search_is_the_plain_sum_over_shared_terms(
    documents: Documents, query: dict[int, float], idf: bool, k: int
) -> None:
    index = SparseIndex(inverted(documents), idf=idf)
    result = index.search(sparse(query), k)
    expected = plain_sparse(documents, query, idf)
    best = sorted(expected, key=lambda row: (-round(expected[row], 9), row))[:k]
    assert result.rows.tolist() == best
    assert result.scores == pytest.approx([expected[row] for row in best])
    for row, score in zip(result.rows.tolist(), result.scores.tolist(), strict=True):
        assert index.score(sparse(query), sparse(documents[row])) == score


def random_documents(count: int, seed: int) -> Documents:
    rng = np.random.default_rng(seed)
    return [
        {
            int(term): float(rng.integers(1, 100)) / 32
            for term in rng.zipf(1.3, size=12) % 4000
        }
        for _ in range(count)
    ]


DOCUMENTS = random_documents(120, 7)
QUERIES = [{1: 1.0, 2: 1.0, 40: 1.0}, {3: 0.5, 7: 2.0}, {5: 1.0, 99999: 1.0}]


@pytest.mark.parametrize("idf", [False, True], ids=["plain", "idf"])
@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_sparse_scores_are_those_of_qdrant_edge(
    tmp_path: Path, query: dict[int, float], idf: bool
) -> None:
    params = edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf if idf else None)
    shard = edge.EdgeShard.create(
        str(tmp_path / "shard"), edge.EdgeConfig(sparse_vectors={"s": params})
    )
    shard.update(
        edge.UpdateOperation.upsert_points(
            [
                edge.Point(
                    row,
                    {"s": edge.SparseVector(list(vector), list(vector.values()))},
                    {},
                )
                for row, vector in enumerate(DOCUMENTS)
            ]
        )
    )
    ask = edge.Query.Nearest(
        edge.SparseVector(list(query), list(query.values())), using="s"
    )
    found = shard.query(edge.QueryRequest(limit=200, query=ask))
    shard.close()
    result = SparseIndex(inverted(DOCUMENTS), idf=idf).search(sparse(query), 200)
    ours = dict(zip(result.rows.tolist(), result.scores.tolist(), strict=True))
    assert ours == pytest.approx({p.id: p.score for p in found}, rel=1e-5)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_idf_scores_are_those_of_qdrant_clients_local_mode(
    query: dict[int, float],
) -> None:
    client = QdrantClient(":memory:")
    client.create_collection(
        "c",
        vectors_config={},
        sparse_vectors_config={
            "s": models.SparseVectorParams(modifier=models.Modifier.IDF)
        },
    )

    def vector(document: dict[int, float]) -> models.SparseVector:
        return models.SparseVector(
            indices=list(document), values=list(document.values())
        )

    client.upsert(
        "c",
        [
            models.PointStruct(id=row, vector={"s": vector(document)})
            for row, document in enumerate(DOCUMENTS)
        ],
        wait=True,
    )
    found = client.query_points("c", query=vector(query), using="s", limit=200).points
    client.close()
    result = SparseIndex(inverted(DOCUMENTS), idf=True).search(sparse(query), 200)
    ours = dict(zip(result.rows.tolist(), result.scores.tolist(), strict=True))
    assert ours == pytest.approx({int(p.id): p.score for p in found}, rel=1e-5)


def test_a_sparse_mask_holds_before_the_cut() -> None:
    documents: Documents = [{1: 9.0}, {1: 8.0}, {1: 1.0}, {1: 2.0}]
    allowed = np.array([False, False, True, True])
    result = SparseIndex(inverted(documents), idf=False).search(
        sparse({1: 1.0}), 1, allowed
    )
    assert result.rows.tolist() == [3]


def test_a_sparse_list_that_ended_by_itself_says_that_all_others_score_0() -> None:
    index = SparseIndex(inverted([{1: 9.0}, {1: 8.0}, {2: 1.0}]), idf=False)
    query = sparse({1: 1.0})
    assert [index.search(query, k).rest for k in (1, 2, 3)] == [None, 0.0, 0.0]
    whole = index.search(query, 3)
    assert replace_score(whole, 0, None, 1).rest == 0.0
    assert replace_score(whole, 0, 7.0, 1).rest is None


def test_an_empty_sparse_query_and_an_unknown_word_find_nothing() -> None:
    index = SparseIndex(inverted(DOCUMENTS), idf=True)
    assert len(index.search(sparse({}), 10)) == 0
    assert len(index.search(sparse({2**32 - 1: 1.0}), 10)) == 0
    assert len(SparseIndex(inverted([]), idf=True).search(sparse({1: 1.0}), 10)) == 0


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
    st.integers(0, 8),
    st.one_of(st.none(), st.integers(0, 6)),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_replacing_a_score_is_searching_again_with_that_score(
    values: list[int], k: int, replacement: int | None, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(values) - 1))
    rows, numbers = np.arange(len(values)), np.array(values, dtype=float)
    changed = {r: float(v) for r, v in enumerate(values) if r != row}
    if replacement is not None:
        changed[row] = float(replacement)
    expected = ranked(
        np.array(list(changed), dtype=np.int64), np.array(list(changed.values())), k
    )
    score = None if replacement is None else float(replacement)
    result = replace_score(ranked(rows, numbers, k + 1), row, score, k)
    assert result.rows.tolist() == expected.rows.tolist()
    assert result.scores.tolist() == expected.scores.tolist()


def test_a_rank_counts_from_1_and_an_absent_row_has_none() -> None:
    result = RankedList(np.array([7, 3]), np.array([2.0, 1.0]))
    assert [rank_of(result, row) for row in (7, 3, 5)] == [1, 2, None]
