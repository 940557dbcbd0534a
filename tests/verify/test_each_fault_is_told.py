"""Faults that usually come together are each told by themselves too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from bundle_parts import BM25, PRIMARY, dense_run, export_bundle
from test_contradictions import RERANK, edit_line, findings_after, reseal

from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import SubdirCounts
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.verify import verify_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return export_bundle(tmp_path)


def told(bundle: Path) -> set[tuple[str, str, str]]:
    return {(f.file, f.place, f.problem) for f in verify_bundle(bundle).findings}


def rewrite_manifest(bundle: Path, **changes: Any) -> None:
    """Write the manifest anew with a sum of its own that holds."""
    Manifest.read(bundle).model_copy(update=changes).write(bundle)


def test_a_manifest_changed_by_hand_is_told(bundle: Path) -> None:
    path = bundle / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"run-1"', b'"run-2"', 1))
    assert told(bundle) == {
        (MANIFEST, "whole file", "its own sum (manifest_sha256) differs")
    }


def test_a_missing_list_of_sums_is_told(bundle: Path) -> None:
    (bundle / SUMS).unlink()
    assert (SUMS, "whole file", "missing") in told(bundle)


def test_an_unreadable_list_of_sums_is_told_with_its_line(bundle: Path) -> None:
    (bundle / SUMS).write_text("nonsense\n")
    problem = "Line 1 of the list of sums is no entry."
    assert (SUMS, "whole file", problem) in told(bundle)


def test_an_entry_that_differs_from_the_manifest_is_told(bundle: Path) -> None:
    content = (bundle / SUMS).read_bytes()
    (bundle / SUMS).write_bytes(b"0" * 64 + content[64:])
    first = content.split()[1].decode()
    problem = "differs from the manifest's sum"
    assert (SUMS, f"entry {first}", problem) in told(bundle)


def test_an_entry_the_manifest_lacks_is_told(bundle: Path) -> None:
    kept = [a for a in Manifest.read(bundle).artifacts if a.path != "docs_ids.jsonl"]
    rewrite_manifest(bundle, artifacts=tuple(kept))
    problem = "is not in the manifest"
    assert (SUMS, "entry docs_ids.jsonl", problem) in told(bundle)


def test_a_manifest_that_does_not_list_the_sums_is_told(bundle: Path) -> None:
    kept = [a for a in Manifest.read(bundle).artifacts if a.path != SUMS]
    rewrite_manifest(bundle, artifacts=tuple(kept))
    assert told(bundle) == {(MANIFEST, "artifacts", f"{SUMS} is not listed")}


def test_a_name_that_cannot_be_a_file_is_told(bundle: Path) -> None:
    rewrite_manifest(bundle, dense_run=(dense_run("../x", 23, 12),))
    assert {(file, place) for file, place, _ in told(bundle)} == {(MANIFEST, "names")}


@pytest.mark.parametrize(
    ("changes", "place", "problem"),
    [
        (
            {"dense_run": (dense_run(PRIMARY, 9, 12), dense_run("bge-m3", 23, 8))},
            f"dense_run {PRIMARY} chunks",
            "9 instead of 23",
        ),
        (
            {"source_subdirs": {"api": SubdirCounts(chunks=4)}},
            "source_subdirs",
            "4 instead of 23",
        ),
    ],
)
def test_a_count_that_differs_is_told(
    bundle: Path, changes: dict[str, Any], place: str, problem: str
) -> None:
    rewrite_manifest(bundle, **changes)
    assert (MANIFEST, place, problem) in told(bundle)


def test_a_row_count_of_a_file_that_differs_is_told(bundle: Path) -> None:
    artifacts = [
        a.model_copy(update={"rows": 9}) if a.path == "docs_ids.jsonl" else a
        for a in Manifest.read(bundle).artifacts
    ]
    rewrite_manifest(bundle, artifacts=tuple(artifacts))
    assert told(bundle) == {
        (MANIFEST, "artifacts docs_ids.jsonl rows", "9 instead of 23")
    }


def test_a_vector_file_that_is_no_array_is_told(bundle: Path) -> None:
    name = f"docs_{PRIMARY}_embeddings.npy"
    (bundle / name).write_bytes(b"nothing")
    reseal(bundle)
    assert (name, "header or length") in {(f, p) for f, p, _ in told(bundle)}


def test_a_candidate_that_stands_twice_is_told(bundle: Path) -> None:
    def repeat(record: Any) -> None:
        record["candidate_ids"][1] = record["candidate_ids"][0]

    edit_line(bundle / RERANK, 1, repeat)
    (finding,) = findings_after(bundle)
    assert finding.problem == "a candidate stands twice"


def test_a_last_line_without_an_end_is_told(bundle: Path) -> None:
    path = bundle / "docs_ids.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = findings_after(bundle)
    assert finding.problem == "the last line breaks off"
    assert finding.place.startswith("line 23, byte ")


def test_inverted_lists_that_are_not_listed_are_told(bundle: Path) -> None:
    folder = f"docs_{BM25}_postings"
    shutil.rmtree(bundle / folder)
    artifacts = Manifest.read(bundle).artifacts
    kept = tuple(a for a in artifacts if not a.path.startswith(folder))
    rewrite_manifest(bundle, artifacts=kept)
    reseal(bundle)
    assert told(bundle) == {(folder, "whole folder", "inverted lists are missing")}


def test_inverted_lists_that_contradict_themselves_are_told(bundle: Path) -> None:
    folder = f"docs_{BM25}_postings"
    np.save(bundle / folder / "terms.npy", np.zeros(3, dtype=np.uint32))
    reseal(bundle)
    assert {(file, place) for file, place, _ in told(bundle)} == {
        (folder, "whole folder")
    }


def test_a_point_that_cannot_be_parsed_stops_the_deep_check_only(bundle: Path) -> None:
    path = bundle / "docs_qdrant.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([orjson.dumps([]), *lines[1:]]) + b"\n")
    reseal(bundle)

    def embed(texts: Sequence[str], key: str) -> Float32Array:
        raise AssertionError("there is nothing to embed")

    report = verify_bundle(bundle, deep=True, embed=embed)
    problems = [f.problem for f in report.findings if f.place == "whole file"]
    assert problems == ["Line 1 of docs_qdrant.jsonl is no point: not an object."]
