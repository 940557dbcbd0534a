"""What needs a broken file is left out and said; the bundle stays damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from bundle_parts import export_bundle
from real_bundle import run_bundle
from test_contradictions import IDS, POINTS, POSTINGS, RERANK, SPARSE

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.verify import VerificationReport, verify_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return export_bundle(tmp_path)


def files_of(report: VerificationReport) -> set[str]:
    return {finding.file for finding in report.findings}


def shorten(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [Path.unlink, shorten, unreadable])
@pytest.mark.parametrize("name", [IDS, POINTS, SPARSE, RERANK, SUMS])
def test_a_broken_file_is_the_only_one_accused(
    bundle: Path, name: str, damage: object
) -> None:
    damage(bundle / name)  # type: ignore[operator]
    report = verify_bundle(bundle)
    assert not report.whole
    assert files_of(report) == {name}


def test_what_needs_a_broken_file_is_said_not_to_be_checked(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / IDS).unlink()
    assert run_function(verify, [str(bundle)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"not checked: candidates in {RERANK} (needs {IDS})" in lines
    assert [line for line in lines if line.startswith("damaged: ")] == [
        f"damaged: {IDS}: whole file: missing, or not a plain file"
    ]
    assert lines[-1] == f"{bundle}: DAMAGED"


def test_a_missing_list_of_sums_is_one_line(bundle: Path) -> None:
    (bundle / SUMS).unlink()
    (finding,) = verify_bundle(bundle).findings
    assert str(finding) == f"{SUMS}: whole file: missing"


def test_texts_of_cut_points_are_not_said_to_be_checked(bundle: Path) -> None:
    with (bundle / POINTS).open("r+b") as file:
        file.truncate(1000)
    report = verify_bundle(bundle)
    assert "23 rows: ids" in report.checks
    assert f"texts, vectors of rows (needs {POINTS})" in report.skipped


def test_a_bundle_without_points_has_no_texts_checked(tmp_path: Path) -> None:
    report = verify_bundle(export_bundle(tmp_path, exports=("npy",)))
    assert report.whole
    assert not report.skipped
    assert "23 rows: ids" in report.checks


def test_a_missing_part_of_inverted_lists_is_said_once(bundle: Path) -> None:
    name = f"{POSTINGS}/rows.npy"
    (bundle / name).unlink()
    report = verify_bundle(bundle)
    assert files_of(report) == {name}
    assert any(f"(needs {name})" in skipped for skipped in report.skipped)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b'"chunk_count": 23', b'"chunk_count": 24'), (b'"docs"', b'"dogs"')],
)
def test_a_changed_manifest_accuses_no_file(
    bundle: Path, before: bytes, after: bytes
) -> None:
    path = bundle / MANIFEST
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    report = verify_bundle(bundle)
    assert [str(finding) for finding in report.findings] == [
        f"{MANIFEST}: whole file: its own sum (manifest_sha256) differs"
    ]
    assert any(f"(needs {MANIFEST})" in skipped for skipped in report.skipped)


def test_a_sum_changed_in_the_manifest_accuses_the_manifest(bundle: Path) -> None:
    path = bundle / MANIFEST
    stated = next(a.sha256 for a in Manifest.read(bundle).artifacts if a.path == IDS)
    turned = stated[:-1] + ("0" if stated[-1] != "0" else "1")
    content = path.read_bytes()
    path.write_bytes(content.replace(stated.encode(), turned.encode(), 1))
    report = verify_bundle(bundle)
    assert files_of(report) == {MANIFEST}
    assert report.findings[1].place == f"artifacts {IDS}"


def test_a_file_broken_beside_a_changed_manifest_is_still_told(bundle: Path) -> None:
    path = bundle / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"run-1"', b'"run-2"', 1))
    shorten(bundle / POINTS)
    assert files_of(verify_bundle(bundle)) == {MANIFEST, POINTS}


def write_version(bundle: Path, version: str) -> None:
    """Write the manifest anew as a later version would, its own sum right."""
    Manifest.read(bundle).model_copy(update={"schema_version": version}).write(bundle)


def test_a_bundle_of_a_newer_version_is_neither_whole_nor_damaged(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_version(bundle, "v5.0")
    assert run_function(verify, [str(bundle)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{bundle}: made by a newer version: not checked.")
    assert out.endswith("Update this program.\n")
    assert "DAMAGED" not in out
    assert not verify_bundle(bundle).whole
    assert orjson.dumps(verify_bundle(bundle).as_dict())


def test_a_newer_version_whose_own_sum_is_wrong_is_damaged(bundle: Path) -> None:
    path = bundle / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"v4.1"', b'"v5.0"', 1))
    report = verify_bundle(bundle)
    assert "its own sum differs" in report.findings[0].problem
    assert "Update this program." in report.findings[0].problem


def test_a_folder_without_a_bundle_is_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.txt").touch()
    assert run_function(verify, [str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {tmp_path} holds no bundle. Name the folder of one collection.\n"
    )


@pytest.mark.parametrize("closed", ["docs", f"docs/{MANIFEST}", f"docs/{IDS}"])
def test_an_unreadable_bundle_is_told_and_the_others_are_checked(
    tmp_path: Path, closed: str
) -> None:
    for name in ("api", "docs", "guide"):
        export_bundle(tmp_path, collection=name, rows=4, queries=0)
    (tmp_path / closed).chmod(0)
    try:
        done = without_root("scripts/verify_bundle.py", str(tmp_path))
    finally:
        (tmp_path / closed).chmod(0o700)
    assert done.returncode == 1, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == f"{tmp_path}/api: whole"
    assert second.startswith(f"{tmp_path}/docs: DAMAGED, ")
    assert "Permission denied" in second
    assert third == f"{tmp_path}/guide: whole"


def without_root(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this project under file permissions that hold for it."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root, and nothing to give up its rights with")
        prefix = (setpriv, "--bounding-set=-dac_override,-dac_read_search")
    return subprocess.run(
        [*prefix, sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_that_reranks_without_sparse_vectors_is_whole(tmp_path: Path) -> None:
    bundle = run_bundle(tmp_path, sparse=(), enable_sparse=False)
    line = (bundle / RERANK).read_bytes().splitlines()[0]
    assert orjson.loads(line)["sparse_scores"] is None
    assert verify_bundle(bundle).findings == ()


def test_a_folder_without_chunk_files_is_told_as_one(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "docs_in"
    source.mkdir()
    (source / "page.md").write_text("# Page\n")
    assert run_function(verify, [str(bundle), "--chunked-dir", str(source)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {source} holds no chunk files (--chunked-dir).")
