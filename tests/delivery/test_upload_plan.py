"""What is decided before anything is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import orjson
import pytest
from delivery_bundle import Content, write_bundle
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client.models import PointStruct

from processor.ultimate_embedder.delivery.bundle_points import (
    plan_upload,
    read_batches,
)
from processor.ultimate_embedder.delivery.cursor import Cursor, Journey
from processor.ultimate_embedder.delivery.membership import compare
from processor.ultimate_embedder.errors import BundleError, DeliveryError, UsageError
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import Artifact
from processor.ultimate_embedder.records import SparseInferenceRun


def test_a_plan_says_what_would_be_sent(bundle: Path) -> None:
    plan = plan_upload(bundle)
    assert (plan.collection, plan.points) == ("docs", 60)
    assert plan.bytes == plan.points_file.stat().st_size
    assert plan.layout.vectors() == {
        "all-miniLM-l6": "8 dimensions, Cosine",
        "qdrant-bm25": "sparse, modifier idf",
        "qdrant-minilm-attention": "sparse, modifier idf",
        "splade": "sparse, no modifier",
    }


def test_another_name_can_be_given(bundle: Path) -> None:
    assert plan_upload(bundle, "elsewhere").collection == "elsewhere"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "  ", "a:b", "a\x00b", "a\nb"])
def test_a_name_that_qdrant_or_a_folder_cannot_have_is_refused(
    bundle: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        plan_upload(bundle, name)


def test_the_simple_layout_is_refused_with_the_cure(
    tmp_path: Path, content: Content
) -> None:
    bundle = write_bundle(tmp_path / "simple", content, layout="simple")
    with pytest.raises(DeliveryError, match="--jsonl-layout qdrant"):
        plan_upload(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no bundle"):
        plan_upload(tmp_path)


def test_a_bundle_without_points_is_refused_with_the_cure(bundle: Path) -> None:
    (bundle / "docs_qdrant.jsonl").unlink()
    with pytest.raises(BundleError, match="export 'jsonl'"):
        plan_upload(bundle)


def test_a_truncated_points_file_is_refused_before_anything_is_sent(
    bundle: Path,
) -> None:
    path = bundle / "docs_qdrant.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(BundleError, match="holds 59 points, the manifest says 60"):
        plan_upload(bundle)


def test_a_sparse_vector_of_an_unknown_model_is_refused(bundle: Path) -> None:
    path = bundle / "docs_qdrant.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"splade"', b'"mystery"'))
    with pytest.raises(DeliveryError, match="'mystery' is of no known model"):
        plan_upload(bundle)


def test_a_damaged_line_is_named(bundle: Path) -> None:
    path = bundle / "docs_qdrant.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[17] = lines[17][:40] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(BundleError, match=r"Line 18 of docs_qdrant\.jsonl"):
        list(read_batches(path))


def test_every_row_loads_as_a_point_of_the_client(bundle: Path) -> None:
    rows = [
        row for batch in read_batches(bundle / "docs_qdrant.jsonl") for row in batch
    ]
    assert len({PointStruct(**row).id for row in rows}) == 60


@given(
    lengths=st.lists(st.integers(0, 60), max_size=40),
    max_points=st.integers(1, 7),
    max_bytes=st.integers(1, 150),
)
def test_batches_keep_order_and_stay_within_their_bounds(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    max_points: int,
    max_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("batches") / "points.jsonl"
    lines = [
        orjson.dumps({"id": str(row), "text": "x" * length})
        for row, length in enumerate(lengths)
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    batches = list(read_batches(path, max_points=max_points, max_bytes=max_bytes))
    assert [row["id"] for batch in batches for row in batch] == [
        str(row) for row in range(len(lengths))
    ]
    for batch in batches:
        assert 1 <= len(batch) <= max_points
        size = sum(len(lines[int(row["id"])]) for row in batch)
        assert len(batch) == 1 or size <= max_bytes


def test_a_points_file_that_is_not_the_one_summed_is_refused(bundle: Path) -> None:
    path = bundle / "docs_qdrant.jsonl"
    sum_of_another = Artifact(
        path=path.name, bytes=path.stat().st_size, sha256="0" * 64, rows=60
    )
    manifest = Manifest(collection="docs", chunk_count=60, artifacts=(sum_of_another,))
    manifest.write(bundle)
    with pytest.raises(
        BundleError,
        match=r"another SHA-256 than the manifest records\. Run 'ultimate-embedder ",
    ):
        plan_upload(bundle)


def test_two_points_with_one_id_are_refused(bundle: Path) -> None:
    path = bundle / "docs_qdrant.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], lines[0]]))
    with pytest.raises(BundleError, match="one id"):
        plan_upload(bundle)


def test_a_sparse_model_is_of_the_kind_that_the_manifest_states(bundle: Path) -> None:
    path = bundle / "docs_qdrant.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"splade"', b'"mine"'))
    run = SparseInferenceRun(
        run_id="r",
        latency_ms=0,
        sparse_model="mine",
        coverage=1,
        statistics={"kind": "splade"},
    )
    Manifest(collection="docs", chunk_count=60, sparse_run=(run,)).write(bundle)
    assert plan_upload(bundle).layout.vectors()["mine"] == "sparse, no modifier"


@given(
    ids=st.lists(st.uuids(), min_size=1, max_size=40, unique=True),
    cut=st.integers(0, 40),
    others=st.lists(st.uuids() | st.integers(0, 2**63), max_size=10, unique=True),
)
def test_missing_and_surplus_ids_are_told_apart(
    ids: list[UUID], cut: int, others: list[UUID | int]
) -> None:
    """Ids that end in zero bytes are among them."""
    ids = [*ids[:-1], UUID(bytes=ids[-1].bytes[:13] + bytes(3))]
    ids = list(dict.fromkeys(ids))
    packed = np.array([one.bytes for one in ids], dtype="S16")
    there = [str(one) for one in (*ids[cut:], *others)]
    pages = [there[start : start + 7] for start in range(0, len(there), 7)]
    found = compare(packed, pages)
    assert found.missing == [str(one) for one in ids[:cut] if str(one) not in there]
    assert sorted(found.surplus) == sorted(str(o) for o in others if o not in ids)


def test_a_cursor_that_cannot_be_written_says_why(bundle: Path) -> None:
    journey = Journey(
        points_sha256="0",
        points=9,
        target="there",
        collection="docs",
        vectors={},
        tuning="default",
    )
    cursor = Cursor.load(bundle / "docs_qdrant.jsonl" / "cursor", journey)
    cursor.advance(3)
    assert (cursor.rows, cursor.lost) == (3, "Not a directory")


def test_a_torn_cursor_begins_anew_and_a_whole_one_goes_on(tmp_path: Path) -> None:
    journey = Journey(
        points_sha256="0",
        points=9,
        target="there",
        collection="docs",
        vectors={},
        tuning="default",
    )
    path = tmp_path / "cursor"
    Cursor.load(path, journey).advance(3)
    assert Cursor.load(path, journey).rows == 3
    assert Cursor.load(path, replace(journey, collection="other")).rows == 0
    path.write_bytes(path.read_bytes()[:20])
    assert Cursor.load(path, journey).rows == 0
