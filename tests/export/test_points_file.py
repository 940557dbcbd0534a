"""The text files of a bundle give back what was written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from bundle_parts import (
    BM25,
    PRIMARY,
    ListStore,
    make_store,
    sparse_matrix,
    unit_vectors,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from qdrant_client.models import PointStruct

from processor.ultimate_embedder.errors import BundleError, InputError
from processor.ultimate_embedder.export import jsonl
from processor.ultimate_embedder.export.strict_json import (
    dumps,
    non_finite_place,
    to_float32,
)
from processor.ultimate_embedder.records import (
    Float32Array,
    SparseMatrix,
    point_id,
    text_sha256,
)

MODEST = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FLOAT32_BITS = st.integers(0, 2**32 - 1).filter(
    lambda bits: bits & 0x7F800000 != 0x7F800000
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def write_one(
    path: Path, metadata: dict[str, Any], vector: Float32Array
) -> jsonl.Lines:
    chunk = replace(make_store(1).chunks[0], metadata=metadata)
    return jsonl.write_points(path, ListStore([chunk]), {PRIMARY: vector[None, :]}, {})


@MODEST
@given(st.lists(FLOAT32_BITS, min_size=1, max_size=50))
@example([0x15AE43FD])  # a cast through float64 returns its neighbour
@example([0x00000001, 0x80000000, 0x007FFFFF, 0x7F7FFFFF, 0xFF7FFFFF])
def test_every_float32_comes_back_bit_for_bit(tmp_path: Path, bits: list[int]) -> None:
    vector = np.array(bits, dtype=np.uint32).view(np.float32)
    write_one(tmp_path / "p.jsonl", {}, vector)
    (point,) = jsonl.read_points(tmp_path / "p.jsonl")
    assert point.dense[PRIMARY].tobytes() == vector.tobytes()


def test_a_plain_cast_would_lose_a_bit() -> None:
    number = orjson.loads(dumps(np.array([0x15AE43FD], np.uint32).view(np.float32)))
    assert np.array(number).astype(np.float32).view(np.uint32)[0] == 0x15AE43FE
    assert to_float32(number).view(np.uint32)[0] == 0x15AE43FD


@MODEST
@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON_VALUES),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_text_and_metadata_come_back_unchanged(
    tmp_path: Path, metadata: dict[str, Any], text: str
) -> None:
    chunk = replace(make_store(1).chunks[0], metadata=metadata, text=text)
    path = tmp_path / "p.jsonl"
    jsonl.write_points(path, ListStore([chunk]), {PRIMARY: unit_vectors(1, 4)}, {})
    (point,) = jsonl.read_points(path)
    assert (point.metadata, point.text) == (metadata, text)
    assert path.read_bytes().count(b"\n") == 1


def test_rows_load_as_points_of_qdrant_client(tmp_path: Path) -> None:
    store, path = make_store(9), tmp_path / "p.jsonl"
    dense, sparse = {PRIMARY: unit_vectors(9, 6)}, {BM25: sparse_matrix(9)}
    lines = jsonl.write_points(path, store, dense, sparse)
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert lines.rows == len(rows) == 9
    for row, record in enumerate(rows):
        point = PointStruct(**record)
        assert point.id == point_id(store.chunks[row].chunk_id)
        assert isinstance(point.vector, dict)
        assert (
            np.float32(point.vector[PRIMARY]).tobytes() == dense[PRIMARY][row].tobytes()
        )
        assert point.vector[BM25].indices == sparse[BM25][row].indices.tolist()
        assert list(record["payload"]) == ["chunk_id", "text", "metadata"]


def test_an_empty_sparse_vector_is_two_empty_lists(tmp_path: Path) -> None:
    store, matrix = make_store(5), sparse_matrix(5)
    jsonl.write_sparse(tmp_path / "s.jsonl", store, {BM25: matrix})
    last = orjson.loads((tmp_path / "s.jsonl").read_bytes().splitlines()[4])
    assert last == {
        "chunk_id": store.chunks[4].chunk_id,
        BM25: {"indices": [], "values": []},
    }


def test_simple_layout_holds_the_primary_vector_alone(tmp_path: Path) -> None:
    store, path = make_store(3), tmp_path / "p.jsonl"
    dense = {PRIMARY: unit_vectors(3, 6), "other": unit_vectors(3, 4)}
    jsonl.write_points(path, store, dense, {BM25: sparse_matrix(3)}, layout="simple")
    record = orjson.loads(path.read_bytes().splitlines()[1])
    assert list(record) == ["id", "text", "embedding", "metadata"]
    assert record["id"] == store.chunks[1].chunk_id
    points = list(jsonl.read_points(path))
    assert points[1].dense["embedding"].tobytes() == dense[PRIMARY][1].tobytes()


def test_ids_tell_row_point_chunk_and_text(tmp_path: Path) -> None:
    store = make_store(3)
    lines = jsonl.write_ids(tmp_path / "i.jsonl", store)
    records = [
        orjson.loads(x) for x in (tmp_path / "i.jsonl").read_bytes().splitlines()
    ]
    assert lines.rows == 3
    assert records[2] == {
        "row": 2,
        "point_id": point_id(store.chunks[2].chunk_id),
        "chunk_id": store.chunks[2].chunk_id,
        "text_sha256": text_sha256(store.chunks[2].text),
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_is_refused_with_its_row(
    tmp_path: Path, value: float
) -> None:
    vectors = unit_vectors(5, 4)
    vectors[3, 1] = value
    with pytest.raises(BundleError, match=f"'{PRIMARY}' in row 3"):
        jsonl.write_points(tmp_path / "p", make_store(5), {PRIMARY: vectors}, {})


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"deep": [{"score": math.nan}]}, r"deep\[0\].score is not a finite number"),
        ({"score": np.float32("inf")}, "score is not a finite number"),
        ({"title": "\ud800"}, "surrogates"),
        ({"size": 2**70}, "64-bit"),
        ({1: "key"}, "key must be str"),
    ],
)
def test_metadata_that_cannot_be_json_is_refused_with_its_chunk(
    tmp_path: Path, metadata: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told) as caught:
        write_one(tmp_path / "p", metadata, unit_vectors(1, 4)[0])
    assert "docs:api:page00000.md:chunk:0" in str(caught.value)
    assert caught.value.cure == "Mend the chunk file."


def test_a_query_with_a_lone_surrogate_is_refused_by_its_id(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Query 'q1'"):
        jsonl.write_rerank(tmp_path / "r", [{"query_id": "q1", "query": "\udfff"}])


def test_a_rerank_score_that_is_nan_is_refused(tmp_path: Path) -> None:
    record = {"query_id": "q1", "scores": np.array([1, np.nan], dtype=np.float32)}
    with pytest.raises(InputError, match="scores is not a finite number"):
        jsonl.write_rerank(tmp_path / "r", [record])


@pytest.mark.parametrize(
    ("indices", "values", "told"),
    [
        ([1, 1], [1.0, 2.0], "ascend"),
        ([2, 1], [1.0, 2.0], "ascend"),
        ([1, 2], [1.0, 0.0], "zero"),
        ([1, 2], [1.0, math.nan], "finite"),
        ([1, 2], [1.0, math.inf], "finite"),
    ],
)
def test_a_sparse_vector_that_breaks_a_rule_is_refused(
    tmp_path: Path, indices: list[int], values: list[float], told: str
) -> None:
    matrix = SparseMatrix(
        np.array([0, 0, 2]), np.array(indices, np.uint32), np.array(values, np.float32)
    )
    with pytest.raises(BundleError, match=f"row 1 is damaged: .*{told}"):
        jsonl.write_sparse(tmp_path / "s", make_store(2), {BM25: matrix})


@pytest.mark.parametrize("row", [0, 1023, 1024, 1029])
def test_a_damaged_sparse_vector_is_named_by_its_row_in_any_block(
    tmp_path: Path, row: int
) -> None:
    rows = 1030
    values = np.ones(2 * rows, dtype=np.float32)
    values[2 * row + 1] = math.nan
    bounds = np.arange(0, 2 * rows + 1, 2)
    matrix = SparseMatrix(bounds, np.tile(np.array([1, 2], np.uint32), rows), values)
    with pytest.raises(BundleError, match=f"row {row} is damaged: .*finite"):
        jsonl.write_sparse(tmp_path / "s", make_store(rows), {BM25: matrix})


@pytest.mark.parametrize("bounds", [[0, 5, 3, 6], [0, 3]])
def test_sparse_bounds_that_are_no_rows_are_refused(
    tmp_path: Path, bounds: list[int]
) -> None:
    ids = np.array([1, 2, 3, 4, 5, 6], dtype=np.uint32)
    matrix = SparseMatrix(np.array(bounds), ids, np.ones(6, dtype=np.float32))
    with pytest.raises(BundleError, match=r"qdrant-bm25.*rows 0 to 2"):
        jsonl.write_sparse(tmp_path / "s", make_store(3), {"qdrant-bm25": matrix})


def test_rows_beyond_the_first_block_are_written_and_told_as_their_own(
    tmp_path: Path,
) -> None:
    """Vectors are looked at 1024 rows at a time."""
    store, path = make_store(1030), tmp_path / "p.jsonl"
    dense, sparse = {PRIMARY: unit_vectors(1030, 4)}, {BM25: sparse_matrix(1030)}
    jsonl.write_points(path, store, dense, sparse)
    for row, point in enumerate(jsonl.read_points(path)):
        assert point.dense[PRIMARY].tobytes() == dense[PRIMARY][row].tobytes()
        expected = sparse[BM25][row]
        assert point.sparse[BM25].indices.tobytes() == expected.indices.tobytes()
        assert point.sparse[BM25].values.tobytes() == expected.values.tobytes()
    sparse[BM25].values[sparse[BM25].indptr[1027]] = 0
    with pytest.raises(BundleError, match="row 1027 is damaged: a value is zero"):
        jsonl.write_sparse(tmp_path / "s", store, sparse)
    dense[PRIMARY][1028] = np.nan
    with pytest.raises(BundleError, match=f"'{PRIMARY}' in row 1028"):
        jsonl.write_points(path, store, dense, {})


def test_a_rerank_line_begins_with_the_contracts_fields(tmp_path: Path) -> None:
    record = {"note": "x", "scores": [1.0], "query": "q", "query_id": "q1"}
    lines = jsonl.write_rerank(tmp_path / "r", [record, record])
    written = (tmp_path / "r").read_bytes()
    assert (lines.rows, lines.bytes_written) == (2, len(written))
    first = orjson.loads(written.splitlines()[0])
    assert list(first) == ["query_id", "query", "scores", "note"]
    assert first == record


def test_memory_mapped_and_strided_vectors_are_written_alike(tmp_path: Path) -> None:
    store, vectors = make_store(7), unit_vectors(7, 6)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    forms = [vectors, mapped, np.asfortranarray(vectors)]
    sums = {
        jsonl.write_points(tmp_path / "p", store, {PRIMARY: form}, {}).sha256
        for form in forms
    }
    assert len(sums) == 1


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"{}", b'{"id":"a","vector":{"m":["x"]},"payload":{}}', b""]
)
def test_a_line_that_is_no_point_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "p.jsonl"
    jsonl.write_points(path, make_store(1), {PRIMARY: unit_vectors(1, 4)}, {})
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(BundleError, match="Line 2"):
        list(jsonl.read_points(path))


def test_non_finite_numbers_are_found_at_any_depth() -> None:
    assert non_finite_place({"a": [1.0, {"b": (2, math.inf)}]}) == "a[1].b[1]"
    assert non_finite_place({"a": [1.0, "nan", None, True]}) is None
