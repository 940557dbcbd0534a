"""A fault is told once, by its own file, row, line and byte, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from bundle_parts import BM25, COMPANION, PRIMARY, dense_run, export_bundle
from real_bundle import run_bundle
from test_contradictions import (
    IDS,
    INDEX,
    POINTS,
    POSTINGS,
    RERANK,
    SPARSE,
    VECTORS,
    edit_line,
    findings_after,
    reseal,
    setter,
)
from test_each_fault_is_told import rewrite_manifest, told

from processor.ultimate_embedder.export.checksums import format_sums
from processor.ultimate_embedder.export.faiss_index import require_faiss, write_index
from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    RerankNotRun,
    SubdirCounts,
)
from processor.ultimate_embedder.verify import verify_bundle

Change = Callable[[Path], object]
COMPANIONS = f"docs_{COMPANION}_embeddings.npy"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return export_bundle(tmp_path)


def forget(bundle: Path, name: str) -> None:
    """Leave a file out, and out of both lists, as a careful forger would."""
    kept = [a for a in Manifest.read(bundle).artifacts if a.path != name]
    (bundle / name).unlink()
    rewrite_manifest(bundle, artifacts=tuple(kept))
    reseal(bundle)


def flip(path: Path, place: int = -9) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [IDS, POINTS, SPARSE, RERANK, VECTORS, INDEX])
def test_a_file_that_the_stages_imply_and_no_list_names_is_told(
    bundle: Path, name: str
) -> None:
    forget(bundle, name)
    assert (MANIFEST, "artifacts", f"{name} is not listed") in told(bundle)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sparse_run": None}, SPARSE),
        ({"rerank_run": RerankNotRun(reason="none", cure="none")}, RERANK),
    ],
    ids=["sparse", "rerank"],
)
def test_a_listed_file_whose_stage_did_not_run_is_told(
    bundle: Path, changes: dict[str, Any], name: str
) -> None:
    rewrite_manifest(bundle, **changes)
    problem = f"{name} is listed, its stage did not run"
    assert (MANIFEST, "artifacts", problem) in told(bundle)


@pytest.mark.parametrize(
    ("changes", "place", "problem"),
    [
        (
            {"dense_run": (dense_run(PRIMARY, 24, 12), dense_run(COMPANION, 23, 8))},
            f"dense_run {PRIMARY} chunks",
            "24 instead of 23",
        ),
        (
            {"dense_run": (dense_run(PRIMARY, 23, 12), dense_run(COMPANION, 9, 8))},
            f"dense_run {COMPANION} chunks",
            "9 instead of 23",
        ),
        (
            {"source_subdirs": {"api": SubdirCounts(chunks=23)}},
            "source_subdirs 'guide'",
            "0 chunks, the points hold 11",
        ),
    ],
    ids=["more", "second model", "unstated"],
)
def test_a_count_of_the_manifest_is_told_with_both_numbers(
    bundle: Path, changes: dict[str, Any], place: str, problem: str
) -> None:
    rewrite_manifest(bundle, **changes)
    assert (MANIFEST, place, problem) in told(bundle)


def test_vectors_of_another_width_than_stated_are_told(bundle: Path) -> None:
    runs = (dense_run(PRIMARY, 23, 13), dense_run(COMPANION, 23, 8))
    rewrite_manifest(bundle, dense_run=runs)
    problem = "shape (23, 12) instead of (23, 13)"
    assert (VECTORS, "header", problem) in told(bundle)


def test_a_sparse_model_whose_name_cannot_be_a_folder_is_told(bundle: Path) -> None:
    runs = Manifest.read(bundle).sparse_run or ()
    renamed = (runs[0].model_copy(update={"sparse_model": "../x"}), *runs[1:])
    rewrite_manifest(bundle, sparse_run=renamed)
    assert {(file, place) for file, place, _ in told(bundle)} == {(MANIFEST, "names")}


@pytest.mark.parametrize("name", [IDS, POINTS, SPARSE, RERANK])
def test_a_line_that_is_no_object_is_told_by_its_byte(bundle: Path, name: str) -> None:
    lines = (bundle / name).read_bytes().splitlines(keepends=True)
    (bundle / name).write_bytes(b"".join([lines[0], b"[]\n", *lines[2:]]))
    found = {f.place: f.problem for f in findings_after(bundle) if f.file == name}
    assert "has another shape" in found[f"line 2, byte {len(lines[0])}"]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (IDS, setter("row", value=7)),
        (POINTS, setter("payload", "text", value="x")),
        (POINTS, setter("vector", PRIMARY, 0, value=0.125)),
        (POINTS, setter("vector", BM25, "values", 0, value=9.5)),
        (POINTS, lambda record: record["vector"].pop(BM25)),
        (SPARSE, setter("chunk_id", value="x")),
        (SPARSE, setter(BM25, "indices", 0, value=2**32)),
        (SPARSE, setter(BM25, "indices", 0, value=True)),
        (SPARSE, setter("note", value="x")),
    ],
)
def test_a_contradiction_is_told_by_the_byte_of_its_line(
    bundle: Path, file: str, change: Callable[[Any], object]
) -> None:
    edit_line(bundle / file, 4, change)
    lines = (bundle / file).read_bytes().splitlines(keepends=True)
    offset = sum(len(line) for line in lines[:3])
    found = {f.place for f in findings_after(bundle) if f.file == file}
    assert f"line 4, byte {offset}" in found


def test_a_vector_hardly_longer_than_one_is_told(bundle: Path) -> None:
    vectors = np.load(bundle / VECTORS)
    vectors[9] *= 1.01
    np.save(bundle / VECTORS, vectors)
    found = {(f.file, f.place): f.problem for f in findings_after(bundle)}
    assert found[VECTORS, "row 9"] == "L2 norm 1.01, not 1"


def test_each_of_two_damaged_models_and_rows_is_told(bundle: Path) -> None:
    vectors = np.load(bundle / COMPANIONS)
    vectors[3], vectors[5] = 0, np.nan
    np.save(bundle / COMPANIONS, vectors)
    np.save(bundle / VECTORS, np.load(bundle / VECTORS)[:-1])
    found = {(f.file, f.place): f.problem for f in findings_after(bundle)}
    assert "instead of (23, 12)" in found[VECTORS, "header"]
    assert found[COMPANIONS, "row 3"] == "L2 norm 0, not 1"
    assert found[COMPANIONS, "row 5"] == "not finite"


def test_vectors_that_are_no_numbers_are_not_searched_for(bundle: Path) -> None:
    vectors = np.load(bundle / VECTORS)
    vectors[9] = np.nan
    np.save(bundle / VECTORS, vectors)
    write_index(bundle / INDEX, vectors)
    assert INDEX not in {finding.file for finding in findings_after(bundle)}


def test_rows_beyond_the_first_block_are_told_by_their_number(tmp_path: Path) -> None:
    """Vectors and indexes are read 1024 rows at a time."""
    bundle = export_bundle(tmp_path, rows=1030, with_sparse=False, queries=0)
    vectors = np.load(bundle / VECTORS)
    vectors[1027] *= 2
    np.save(bundle / VECTORS, vectors)
    found = {(f.file, f.place) for f in findings_after(bundle)}
    assert {(VECTORS, "row 1027"), (INDEX, "row 1027")} <= found
    index = f"docs_{COMPANION}_index.faiss"
    at = (bundle / index).stat().st_size - 8 * 4 * 2 + 5
    flip(bundle / index, at)
    report = verify_bundle(bundle)
    problems = {f.place: f.problem for f in report.findings if f.file == index}
    size = (bundle / index).stat().st_size
    assert problems == {
        f"bytes 0-{size}": "the SHA-256 differs",
        f"row 1028, byte {at}": "differs from the .npy file",
    }


def test_an_index_by_another_measure_than_the_inner_product_is_told(
    bundle: Path,
) -> None:
    faiss = require_faiss()
    index = faiss.IndexFlatL2(12)
    index.add(np.load(bundle / VECTORS))
    faiss.write_index(index, str(bundle / INDEX))
    (finding,) = findings_after(bundle)
    assert (finding.file, finding.place) == (INDEX, "header")
    assert finding.problem.endswith("or not by inner product")


def test_an_index_with_a_byte_more_is_told_once(bundle: Path) -> None:
    size = (bundle / INDEX).stat().st_size
    (bundle / INDEX).write_bytes((bundle / INDEX).read_bytes() + b"\0")
    assert told(bundle) == {
        (INDEX, f"byte {size}", f"goes on: {size + 1} of {size} bytes")
    }


def test_damage_of_an_index_is_not_placed_by_damaged_vectors(bundle: Path) -> None:
    flip(bundle / VECTORS, 128 + 2 * 12 * 4)
    flip(bundle / INDEX)
    size = (bundle / INDEX).stat().st_size
    of_index = {found for found in told(bundle) if found[0] == INDEX}
    assert of_index == {(INDEX, f"bytes 0-{size}", "the SHA-256 differs")}


def test_rows_exchanged_in_a_vector_file_accuse_no_index(bundle: Path) -> None:
    vectors = np.load(bundle / VECTORS)
    np.save(bundle / VECTORS, vectors[[1, 0, *range(2, 23)]])
    assert {file for file, _, _ in told(bundle)} == {VECTORS}


def test_damage_of_an_approximate_index_has_no_rows(tmp_path: Path) -> None:
    """Its bytes are no list of vectors."""
    bundle = export_bundle(tmp_path, faiss_factory="HNSW8")
    assert told(bundle) == set()
    flip(bundle / INDEX)
    size = (bundle / INDEX).stat().st_size
    assert told(bundle) == {(INDEX, f"bytes 0-{size}", "the SHA-256 differs")}


def test_a_cut_file_is_told_with_both_sizes(bundle: Path) -> None:
    name = f"{POSTINGS}/values.npy"
    size = (bundle / name).stat().st_size
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-3])
    assert told(bundle) == {
        (name, f"byte {size - 3}", f"breaks off: {size - 3} of {size} bytes")
    }


@pytest.mark.parametrize("part", ["terms", "offsets", "rows", "values", "statistics"])
def test_a_lost_part_of_inverted_lists_is_told_once(bundle: Path, part: str) -> None:
    name = f"{POSTINGS}/{part}.npy"
    (bundle / name).unlink()
    problem = "missing, or not a plain file"
    assert told(bundle) == {(name, "whole file", problem)}


def test_a_folder_that_is_a_link_is_not_taken_for_one(
    bundle: Path, tmp_path: Path
) -> None:
    shutil.move(bundle / POSTINGS, tmp_path / "elsewhere")
    (bundle / POSTINGS).symlink_to(tmp_path / "elsewhere")
    problem = "missing, or not a plain file"
    assert (f"{POSTINGS}/rows.npy", "whole file", problem) in told(bundle)


def test_a_lost_file_of_sparse_vectors_is_told_once(bundle: Path) -> None:
    (bundle / SPARSE).unlink()
    problem = "missing, or not a plain file"
    assert told(bundle) == {(SPARSE, "whole file", problem)}


def test_lost_vectors_are_told_once_and_what_needs_them_is_said(bundle: Path) -> None:
    for name in (VECTORS, f"docs_{COMPANION}_index.faiss"):
        (bundle / name).unlink()
    report = verify_bundle(bundle)
    assert sorted(finding.file for finding in report.findings) == [
        VECTORS,
        f"docs_{COMPANION}_index.faiss",
    ]
    assert f"vectors of {PRIMARY} (needs {VECTORS})" in report.skipped
    assert any(
        said.startswith(f"searches with {COMPANION} ") for said in report.skipped
    )


def test_nothing_is_said_to_be_checked_that_is_not_there(bundle: Path) -> None:
    whole = verify_bundle(bundle)
    assert "form and order of the chunk ids" in whole.checks
    assert "vectors of 2 dense models" in whole.checks
    (bundle / IDS).write_bytes((bundle / IDS).read_bytes()[:1000])
    for key in (PRIMARY, COMPANION):
        (bundle / f"docs_{key}_embeddings.npy").unlink()
    checks = verify_bundle(bundle).checks
    assert "form and order of the chunk ids" not in checks
    assert not any(check.startswith("vectors of ") for check in checks)


def test_an_approximate_index_is_said_not_to_be_compared(tmp_path: Path) -> None:
    report = verify_bundle(export_bundle(tmp_path, faiss_factory="SQ8"))
    assert report.whole
    assert f"{INDEX} is approximate: its answers were not compared" in report.notes


def test_a_flipped_bit_leaves_nothing_unchecked(bundle: Path) -> None:
    flip(bundle / IDS)
    report = verify_bundle(bundle)
    assert not report.whole
    assert report.skipped == ()


def test_a_sum_that_the_list_lacks_is_told(bundle: Path) -> None:
    content = {a.path: a.sha256 for a in Manifest.read(bundle).artifacts}
    entries = [(name, of) for name, of in content.items() if name not in (SUMS, IDS)]
    (bundle / SUMS).write_bytes(format_sums(entries))
    assert (SUMS, f"entry {IDS}", "differs from the manifest's sum") in told(bundle)


def test_a_size_changed_in_the_manifest_accuses_the_manifest(bundle: Path) -> None:
    path, size = bundle / MANIFEST, (bundle / IDS).stat().st_size
    content = path.read_bytes()
    path.write_bytes(content.replace(f": {size}".encode(), f": {size + 1}".encode(), 1))
    assert told(bundle) == {
        (MANIFEST, "whole file", "its own sum (manifest_sha256) differs")
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": "v4.0", "manifest_sha256": ""},
        {"manifest_sha256": "", "artifacts": []},
        {"schema_version": "v4.0", "manifest_sha256": "0" * 64, "artifacts": []},
    ],
    ids=["sums in an old schema", "a new schema without sums", "another sum"],
)
def test_a_manifest_that_should_hold_its_own_sum_is_told(
    bundle: Path, changes: dict[str, Any]
) -> None:
    document = orjson.loads((bundle / MANIFEST).read_bytes()) | changes
    (bundle / MANIFEST).write_bytes(orjson.dumps(document))
    problem = "its own sum (manifest_sha256) differs"
    assert (MANIFEST, "whole file", problem) in told(bundle)


def test_a_path_from_the_root_leads_nowhere(bundle: Path) -> None:
    artifacts = [{"path": "/etc/hosts", "bytes": 1, "sha256": "0"}]
    manifest = {"schema_version": "v4.0", "collection": "docs", "chunk_count": 23}
    content = orjson.dumps(manifest | {"artifacts": artifacts})
    (bundle / MANIFEST).write_bytes(content)
    problem = "the name leads out of the bundle"
    assert ("/etc/hosts", "whole file", problem) in told(bundle)


def v4_0(bundle: Path) -> None:
    """Leave a manifest as of schema v4.0, which states neither sums nor models."""
    manifest = {"schema_version": "v4.0", "collection": "docs", "chunk_count": 23}
    (bundle / MANIFEST).write_bytes(orjson.dumps(manifest))
    (bundle / SUMS).unlink()


def test_vectors_of_a_v4_0_bundle_are_compared(tmp_path: Path) -> None:
    bundle = export_bundle(
        tmp_path, with_sparse=False, queries=0, jsonl_layout="simple"
    )
    v4_0(bundle)
    vectors = np.load(bundle / VECTORS)
    write_index(bundle / INDEX, vectors[[1, 0, *range(2, 23)]])
    places = {(file, place) for file, place, _ in told(bundle)}
    assert {(INDEX, "row 0"), (INDEX, "row 1")} <= places
    for key in (PRIMARY, COMPANION):
        (bundle / f"docs_{key}_index.faiss").unlink()
    report = verify_bundle(bundle)
    assert report.whole
    assert "vectors of 2 dense models" in report.checks
    edit_line(bundle / POINTS, 4, setter("embedding", 0, value=0.125))
    # Nothing says which model's they are, but the first in order of names.
    assert {file for file, _, _ in told(bundle)} == {POINTS}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (setter("scores", value=None), "another shape"),
        (setter("cross_scores", value=None), "another shape"),
        (setter("scores", value=[9.0, 3.5, 2.25, -1.0]), "4 scores for 3 candidates"),
        (setter("candidate_ids", 0, value="x" * 10_000), "candidate 'xxx"),
    ],
)
def test_a_fault_of_the_first_reranked_query_is_told_alone(
    bundle: Path, change: Callable[[Any], object], problem: str
) -> None:
    edit_line(bundle / RERANK, 1, change)
    (finding,) = findings_after(bundle)
    assert finding.place == "line 1, byte 0"
    assert problem in finding.problem
    assert len(finding.problem) < 1000


def test_the_first_three_unknown_candidates_are_named(bundle: Path) -> None:
    change = {"candidate_ids": [*"abcd"], "scores": [1.0] * 4}
    edit_line(bundle / RERANK, 1, lambda record: record.update(change))
    problems = [finding.problem for finding in findings_after(bundle)]
    assert problems[:3] == [f"candidate '{name}' is unknown" for name in "abc"]
    assert not any("'d'" in problem for problem in problems)


def test_a_reranked_query_too_many_is_told(bundle: Path) -> None:
    lines = (bundle / RERANK).read_bytes().splitlines(keepends=True)
    (bundle / RERANK).write_bytes(b"".join([*lines, lines[0]]))
    (finding,) = findings_after(bundle)
    assert (finding.place, finding.problem) == ("line 3", "ends there, not at 2")


def test_a_damaged_sparse_line_accuses_no_other_line_or_file(tmp_path: Path) -> None:
    bundle = run_bundle(tmp_path)
    content = (bundle / SPARSE).read_bytes()
    start = content.index(b"\n") + 1
    (bundle / SPARSE).write_bytes(content[:start] + b"?" + content[start + 1 :])
    found = verify_bundle(bundle).findings
    assert {finding.file for finding in found} == {SPARSE}
    places = {finding.place for finding in found}
    assert places == {f"bytes 0-{len(content)}", f"line 2, byte {start}", "all rows"}


def test_a_sparse_vector_with_a_fault_makes_no_other_differ(bundle: Path) -> None:
    edit_line(bundle / SPARSE, 4, setter(BM25, "values", 0, value=0.0))
    found = findings_after(bundle)
    lines = {f.place.partition(",")[0] for f in found if f.file in (SPARSE, POINTS)}
    assert lines == {"line 4"}
    problem = "holds 6 entries that the sparse file lacks"
    assert (POSTINGS, problem) in {(f.file, f.problem) for f in found}
    assert not any(f.place.startswith("row") for f in found)
    assert {f.file for f in found} == {SPARSE, POINTS, POSTINGS}
