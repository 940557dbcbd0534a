"""The manifest: what it says of itself, and which versions are read."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from bundle_parts import PRIMARY, export_bundle

from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.export.layout import MANIFEST
from processor.ultimate_embedder.export.manifest import Manifest, own_sum_holds
from processor.ultimate_embedder.export.manifest_sections import (
    FusionRun,
    RerankNotRun,
    RerankRan,
)

V40 = {
    "schema_version": "v4.0",
    "collection": "docs",
    "chunk_count": 2,
    "generated_at": "2025-10-01T00:00:00Z",
}


def stored(folder: Path, document: Any) -> Path:
    (folder / MANIFEST).write_bytes(orjson.dumps(document))
    return folder


def test_a_manifest_reads_back_equal(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, rows=4)
    manifest = Manifest.read(bundle)
    (tmp_path / "copy").mkdir()
    assert manifest.write(tmp_path / "copy") == manifest
    assert Manifest.read(tmp_path / "copy") == manifest
    assert (tmp_path / "copy" / MANIFEST).read_bytes() == (
        bundle / MANIFEST
    ).read_bytes()


def test_its_own_sum_is_over_the_file_with_the_value_blank(tmp_path: Path) -> None:
    content = (export_bundle(tmp_path, rows=2) / MANIFEST).read_bytes()
    stated = json.loads(content)["manifest_sha256"]
    blank = content.replace(stated.encode(), b"", 1)
    assert hashlib.sha256(blank).hexdigest() == stated


def test_every_changed_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    content = (export_bundle(tmp_path, rows=2) / MANIFEST).read_bytes()
    assert own_sum_holds(content)
    chance = random.Random(1)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        assert not own_sum_holds(bytes(changed))


def test_a_changed_manifest_is_not_read(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, rows=2)
    path = bundle / MANIFEST
    path.write_bytes(
        path.read_bytes().replace(b'"chunk_count": 2', b'"chunk_count": 3')
    )
    with pytest.raises(BundleError, match="changed after it was written"):
        Manifest.read(bundle)


def test_a_v4_0_manifest_without_the_new_sections_is_read(tmp_path: Path) -> None:
    manifest = Manifest.read(stored(tmp_path, V40))
    assert (manifest.collection, manifest.chunk_count) == ("docs", 2)
    assert manifest.sparse_run is None
    assert manifest.rerank_run is None
    assert manifest.artifacts == ()


def test_unknown_keys_and_a_newer_minor_version_are_accepted(tmp_path: Path) -> None:
    document = V40 | {"schema_version": "v4.9", "novelty": {"a": 1}}
    assert Manifest.read(stored(tmp_path, document)).schema_version == "v4.9"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": "v5.0"}, r"schema v5\.0"),
        ({"schema_version": "v3.2"}, r"older than v4\.0"),
        ({"schema_version": 4}, "no schema version"),
        ({"schema_version": "four"}, "no schema version"),
        ({"chunk_count": -1}, "chunk_count"),
        ({"dense_run": [{"model": "m"}]}, "dense_run.0.hf_model_id"),
        ({"rerank_run": {"status": "perhaps"}}, "rerank_run"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(BundleError, match=told):
        Manifest.read(stored(tmp_path, V40 | change))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError):
        Manifest.read(tmp_path)


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no bundle"):
        Manifest.read(tmp_path)


def test_both_kinds_of_rerank_section_come_back(tmp_path: Path) -> None:
    base = Manifest(collection="docs", chunk_count=1)
    for section in (
        RerankNotRun(reason="no weights", cure="fetch them"),
        RerankRan(model="m", queries=1, candidates=100, top_k=20),
    ):
        base.model_copy(update={"rerank_run": section}).write(tmp_path)
        assert Manifest.read(tmp_path).rerank_run == section


def test_lone_surrogates_are_written_as_escapes(tmp_path: Path) -> None:
    Manifest(collection="docs", chunk_count=1, warnings=("a\ud800b",)).write(tmp_path)
    assert Manifest.read(tmp_path).warnings == ("a\\ud800b",)


def test_a_figure_that_is_not_finite_is_refused_with_its_place(tmp_path: Path) -> None:
    fusion = FusionRun(method="rrf", statistics={"ndcg": math.nan})
    manifest = Manifest(collection="docs", chunk_count=1, fusion_run=fusion)
    with pytest.raises(BundleError, match=r"fusion_run\.statistics\.ndcg"):
        manifest.write(tmp_path)


def test_a_value_of_a_foreign_type_is_refused(tmp_path: Path) -> None:
    fusion = FusionRun(method="rrf", statistics={"x": object()})
    with pytest.raises(BundleError, match="cannot be written"):
        Manifest(collection="docs", chunk_count=1, fusion_run=fusion).write(tmp_path)


def test_rows_of_every_file_are_listed(tmp_path: Path) -> None:
    rows = {a.path: a.rows for a in Manifest.read(export_bundle(tmp_path)).artifacts}
    assert rows["docs_ids.jsonl"] == rows["docs_qdrant.jsonl"] == 23
    assert rows[f"docs_{PRIMARY}_embeddings.npy"] == 23
    assert rows["docs_rerank.jsonl"] == 2
    assert rows["SHA256SUMS"] is None
    assert "processing_summary.json" not in rows
