"""A whole bundle passes; any flipped byte, cut or stray file is found and placed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from bundle_parts import BM25, PRIMARY, export_bundle

from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.verify import VerificationReport, verify_bundle


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "docs"))


def files_of(report: VerificationReport) -> set[str]:
    return {finding.file for finding in report.findings}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"jsonl_layout": "simple"},
        {"with_sparse": False, "queries": 0},
        {"exports": ("npy",)},
        {"exports": ("jsonl",)},
        {"exports": ("faiss",)},
        {"exports": ()},
        {"faiss_factory": "SQ8"},
        {"rows": 1},
        {"collection": "näme with space"},
    ],
    ids=str,
)
def test_a_whole_bundle_has_no_findings(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    report = verify_bundle(export_bundle(tmp_path, **options))
    assert report.findings == ()
    assert report.whole
    assert report.checks


def test_damage_to_any_file_is_found_and_names_the_file(tmp_path: Path) -> None:
    """Bits are flipped, ends cut off and a line feed added, at random places."""
    chance = random.Random(7)
    original = export_bundle(tmp_path / "original", rows=6)
    bundle = Path(shutil.copytree(original, tmp_path / "copy" / "docs"))
    files = sorted(p.relative_to(original) for p in original.rglob("*") if p.is_file())
    assert len(files) == 20
    for name in files:
        content = (original / name).read_bytes()
        for _ in range(2):
            flipped = bytearray(content)
            flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            cut = content[: chance.randrange(len(content))]
            for damaged in (bytes(flipped), cut, content + b"\n"):
                (bundle / name).write_bytes(damaged)
                report = verify_bundle(bundle)
                assert not report.whole, name
                assert name.as_posix() in files_of(report), name
        (bundle / name).write_bytes(content)
    assert verify_bundle(bundle).whole


@pytest.mark.parametrize("name", ["docs_ids.jsonl", "docs_qdrant.jsonl", SUMS])
def test_a_missing_file_is_found(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert name in files_of(verify_bundle(bundle))


@pytest.mark.parametrize(
    "name", ["docs_old_embeddings.npy", ".hidden", "docs_qdrant-bm25_postings/x.npy"]
)
def test_a_file_that_does_not_belong_is_found(bundle: Path, name: str) -> None:
    (bundle / name).touch()
    (finding,) = verify_bundle(bundle).findings
    assert (finding.file, finding.problem) == (name, "does not belong to the bundle")


def test_a_folder_that_does_not_belong_is_found(bundle: Path) -> None:
    (bundle / "stray").mkdir()
    assert files_of(verify_bundle(bundle)) == {"stray"}


def test_a_link_is_not_taken_for_a_file(bundle: Path, original: Path) -> None:
    (bundle / "docs_ids.jsonl").unlink()
    (bundle / "docs_ids.jsonl").symlink_to(original / "docs_ids.jsonl")
    report = verify_bundle(bundle)
    assert "not a plain file" in report.findings[0].problem


def test_a_folder_without_a_manifest_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / MANIFEST).unlink()
    report = verify_bundle(bundle)
    assert files_of(report) == {MANIFEST}
    assert "is not a whole bundle" in report.findings[0].problem
    assert not verify_bundle(tmp_path / "nowhere").whole


def test_other_damage_is_still_found_when_the_manifest_is_unreadable(
    bundle: Path,
) -> None:
    (bundle / MANIFEST).write_text("{")
    (bundle / "docs_ids.jsonl").write_text("x")
    assert files_of(verify_bundle(bundle)) == {MANIFEST, "docs_ids.jsonl"}


def test_damaged_text_files_are_placed_by_line_and_byte(bundle: Path) -> None:
    path = bundle / "docs_qdrant.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    offset = len(lines[0]) + len(lines[1])
    lines[2] = b"?" + lines[2][1:]
    path.write_bytes(b"".join(lines))
    places = {finding.place for finding in verify_bundle(bundle).findings}
    assert f"line 3, byte {offset}" in places


def test_a_damaged_vector_is_placed_by_row(bundle: Path) -> None:
    path = bundle / f"docs_{PRIMARY}_embeddings.npy"
    content = bytearray(path.read_bytes())
    content[128 + (6 * 12 + 3) * 4 + 3] ^= 0x40  # an exponent bit of row 6
    path.write_bytes(content)
    places = {f.place for f in verify_bundle(bundle).findings if f.file == path.name}
    assert "row 6" in places


def test_a_cut_file_is_placed_by_its_end(bundle: Path) -> None:
    name = f"docs_{BM25}_postings/values.npy"
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-3])
    (finding,) = verify_bundle(bundle).findings
    assert (finding.file, finding.place) == (name, f"byte {len(content) - 3}")


def test_findings_of_one_file_are_limited_and_the_rest_counted(bundle: Path) -> None:
    (bundle / "docs_ids.jsonl").write_bytes(b"?\n" * 100)
    report = verify_bundle(bundle)
    assert sum(f.file == "docs_ids.jsonl" for f in report.findings) == 20
    assert report.further_findings == 82


def test_a_v4_0_bundle_without_sums_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = export_bundle(tmp_path, with_sparse=False, queries=0)
    manifest = {"schema_version": "v4.0", "collection": "docs", "chunk_count": 23}
    (folder / MANIFEST).write_bytes(orjson.dumps(manifest))
    (folder / SUMS).unlink()
    report = verify_bundle(folder)
    assert report.whole
    assert "states no sums" in report.notes[0]
    ids = folder / "docs_ids.jsonl"
    ids.write_bytes(b"".join(ids.read_bytes().splitlines(keepends=True)[:-1]))
    assert files_of(verify_bundle(folder)) == {"docs_ids.jsonl"}


@pytest.mark.parametrize("collection", ["../docs", "", "/etc"])
def test_a_hostile_manifest_leads_nowhere(bundle: Path, collection: str) -> None:
    manifest = {
        "schema_version": "v4.0",
        "collection": collection,
        "chunk_count": 1,
        "artifacts": [{"path": "../../x", "bytes": 1, "sha256": "0"}],
    }
    (bundle / MANIFEST).write_bytes(orjson.dumps(manifest))
    problems = {finding.problem for finding in verify_bundle(bundle).findings}
    assert "the name leads out of the bundle" in problems


def test_memory_does_not_grow_with_what_a_line_says(bundle: Path) -> None:
    """A report holds the place of damage, not the damaged text."""
    (bundle / "docs_ids.jsonl").write_bytes(b'{"row": "' + b"x" * 100_000 + b'"}\n')
    report = verify_bundle(bundle)
    assert all(len(str(finding)) < 1000 for finding in report.findings)
