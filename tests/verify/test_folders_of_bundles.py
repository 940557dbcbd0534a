"""`verify` on a folder of bundles checks each: a line each, the worst exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bundle_parts import export_bundle

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.export.layout import SUMS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two bundles, a hidden one, and things that are no bundle."""
    for name in ("docs", "api"):
        export_bundle(tmp_path, collection=name, rows=4, queries=0)
    export_bundle(tmp_path / ".work", collection="docs", rows=4)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "letter.txt").touch()
    return tmp_path


def test_each_bundle_of_a_folder_has_a_line_in_order_of_names(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(verify, [str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{root}/api: whole", f"{root}/docs: whole"]


def test_one_damaged_bundle_of_a_folder_gives_exit_code_1_and_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "api" / "api_ids.jsonl").unlink()
    assert run_function(verify, [str(root)]) == 1
    damaged, whole = capsys.readouterr().out.splitlines()
    assert damaged.startswith(f"{root}/api: DAMAGED, ")
    assert "the first: api_ids.jsonl: whole file: missing" in damaged
    assert whole == f"{root}/docs: whole"


@pytest.mark.parametrize(
    "left",
    [
        SUMS,
        "docs_ids.jsonl",
        "docs_qdrant.jsonl",
        "docs_sparse.jsonl",
        "_embeddings.npy",
        "_index.faiss",
        "_postings",
    ],
)
def test_a_bundle_that_lost_its_manifest_is_not_passed_over(
    root: Path, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "docs").iterdir():
        if path.is_dir() and not path.name.endswith(left):
            shutil.rmtree(path)
        elif not path.name.endswith(left):
            path.unlink()
    assert run_function(verify, [str(root)]) == 1
    assert f"{root}/docs: DAMAGED" in capsys.readouterr().out


def test_a_name_with_signs_of_a_pattern_is_meant_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a[b]", "other*"):
        (tmp_path / name).mkdir()
    (tmp_path / "a[b]" / "a[b]_qdrant.jsonl").touch()
    (tmp_path / "other*" / "others_qdrant.jsonl").touch()
    assert run_function(verify, [str(tmp_path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/a[b]: DAMAGED")


def test_json_is_one_document_for_several_bundles(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(verify, [str(root), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["whole"] is True
    assert [Path(one["bundle"]).name for one in document["bundles"]] == ["api", "docs"]
    (root / "docs" / "stray").touch()
    assert run_function(verify, [str(root), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["whole"] is False
    assert [one["whole"] for one in document["bundles"]] == [True, False]


def test_a_folder_with_a_single_bundle_in_it_has_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_bundle(tmp_path, rows=2)
    assert run_function(verify, [str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/docs: whole\n"
