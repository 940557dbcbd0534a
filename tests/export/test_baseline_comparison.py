"""Dense bytes against an earlier bundle: equal, different, or not comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundle_parts import (
    PRIMARY,
    dense_run,
    export_bundle,
    make_manifest,
    make_store,
    unit_vectors,
)

from processor.ultimate_embedder.export.baseline import compare_baseline
from processor.ultimate_embedder.export.layout import MANIFEST
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    BaselineComparison,
    Environment,
)


def baseline_of(bundle: Path) -> BaselineComparison:
    found = Manifest.read(bundle).baseline
    assert found is not None
    return found


def compared(
    tmp_path: Path, *, run: dict[str, Any] | None = None, **other: Any
) -> BaselineComparison:
    """Compare new bytes with a real earlier bundle, the manifest changed as told."""
    old = Manifest.read(export_bundle(tmp_path, rows=5, queries=0))
    ids = next(a.sha256 for a in old.artifacts if a.path == "docs_ids.jsonl")
    changes: dict[str, Any] = {"dense_run": (dense_run(PRIMARY, 5, 12, **run or {}),)}
    new = old.model_copy(update=changes | other)
    return compare_baseline(old, new, {PRIMARY: "0" * 64}, ids)


def test_the_first_bundle_has_nothing_to_compare_with(tmp_path: Path) -> None:
    found = baseline_of(export_bundle(tmp_path))
    assert (found.status, found.against) == ("not_comparable", "none")
    assert found.reason == "there is no earlier bundle"


def test_the_same_bytes_are_equal(tmp_path: Path) -> None:
    export_bundle(tmp_path)
    found = baseline_of(export_bundle(tmp_path))
    assert (found.status, found.against) == ("equal", "replaced")
    assert {model.status for model in found.models} == {"equal"}


def test_other_bytes_from_the_same_input_are_different(tmp_path: Path) -> None:
    export_bundle(tmp_path)
    found = baseline_of(export_bundle(tmp_path, seed=7))
    assert found.status == "different"
    assert found.models[0].sha256 != found.models[0].earlier_sha256


def test_other_chunks_are_not_comparable(tmp_path: Path) -> None:
    export_bundle(tmp_path)
    found = baseline_of(export_bundle(tmp_path, rows=9))
    assert found.status == "not_comparable"
    assert "the chunks differ" in found.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"revision": "def"}, "revision 'abc' -> 'def'"),
        ({"dtype": "bfloat16"}, "dtype 'float32' -> 'bfloat16'"),
        ({"max_tokens": 128}, "max_tokens 256 -> 128"),
        ({"device": "cuda:0"}, "on a GPU"),
    ],
)
def test_a_model_used_otherwise_is_not_comparable(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    found = compared(tmp_path, run=change)
    assert found.status == "not_comparable"
    assert told in found.reason


def test_another_machine_or_library_is_not_comparable(tmp_path: Path) -> None:
    machine = Environment(processor="other", versions={"numpy": "3"})
    found = compared(tmp_path, environment=machine)
    assert found.status == "not_comparable"
    assert "processor 'test' -> 'other', numpy 2 -> 3" in found.reason


def test_nothing_changed_but_the_bytes_is_different(tmp_path: Path) -> None:
    assert compared(tmp_path).status == "different"


def test_a_model_the_earlier_bundle_lacks_is_not_comparable(tmp_path: Path) -> None:
    old = Manifest.read(export_bundle(tmp_path, rows=5))
    found = compare_baseline(old, old, {"novel": "0" * 64}, "")
    assert found.models[0].reason == "the earlier bundle has no sum of this model"


def test_a_named_baseline_is_used_instead_of_the_replaced_bundle(
    tmp_path: Path,
) -> None:
    export_bundle(tmp_path / "old", seed=3)
    for place in (tmp_path / "old", tmp_path / "old" / "docs"):
        found = baseline_of(export_bundle(tmp_path / "new", seed=3, baseline=place))
        assert (found.status, found.against) == ("equal", "baseline")


def test_sums_are_compared_where_vectors_were_not_exported(tmp_path: Path) -> None:
    export_bundle(tmp_path, exports=("jsonl",))
    assert baseline_of(export_bundle(tmp_path, exports=("jsonl",))).status == "equal"


def test_a_damaged_earlier_manifest_is_not_comparable(tmp_path: Path) -> None:
    (export_bundle(tmp_path) / MANIFEST).write_text("{")
    found = baseline_of(export_bundle(tmp_path))
    assert found.status == "not_comparable"
    assert "cannot be read" in found.reason


def test_the_comparison_is_made_without_an_earlier_manifest() -> None:
    store = make_store(2)
    new = make_manifest(store, {PRIMARY: unit_vectors(2, 4)}, {}, 0)
    found = compare_baseline(None, new, {PRIMARY: "0" * 64}, "", why_none="new here")
    assert (found.status, found.reason) == ("not_comparable", "new here")
