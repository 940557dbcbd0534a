"""The command as an operator meets it: output, messages, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from processor.ultimate_embedder.chunking.folder import CollectionReport
from processor.ultimate_embedder.cli import chunk as command
from processor.ultimate_embedder.cli.chunk import chunk
from processor.ultimate_embedder.cli.entry import run_function

SCRIPT = Path(__file__).parents[2] / "scripts" / "chunk_docs_v5.py"


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    docs = tmp_path / "in" / "docs"
    docs.mkdir(parents=True)
    (docs / "a.md").write_text("# A title\n\n" + "Secret words. " * 200)
    return ["--input-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path / "out")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run_function(chunk, arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_json_is_one_document_and_logs_stay_on_standard_error(folders, capsys) -> None:
    code, out, err = run(capsys, *folders, "--json", "--log-format", "json")
    assert code == 0
    document = json.loads(out)
    assert document["settings"]["max_tokens"] == 256
    assert document["collections"][0]["chunked"] == 1
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert "stage_finished" in events


def test_the_table_shows_the_figures_and_no_text_of_documents(folders, capsys) -> None:
    code, out, err = run(capsys, *folders)
    assert code == 0
    assert "docs" in out
    assert "at most 256 tokens of all-miniLM-l6" in out
    assert "Secret" not in out + err
    assert "\x1b" not in out + err


def test_the_tables_fit_80_columns_when_every_figure_is_needed(
    capsys, monkeypatch, tmp_path
) -> None:
    figures = dict.fromkeys(("documents", "chunks", "new_chunks"), 12_345)
    figures |= dict.fromkeys(("chunked", "unchanged", "empty", "quarantined"), 1_234)
    one = CollectionReport("qdrant_ecosystem", **figures, removed=1_234)
    one.skipped, one.tokens, one.seconds = {".png": 1_234}, 12_345_678, 0.5
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(command, "chunk_folder", lambda *_: [one])
    monkeypatch.setattr(command, "stdout_format", lambda _: "rich")
    code, out, _ = run(capsys, "--input-dir", str(tmp_path))
    assert code == 0
    words = "qdrant_ecosystem found chunked kept empty skipped removed 12,345,678"
    for word in words.split():
        assert word in out


def test_a_figure_that_is_zero_everywhere_has_no_column(folders, capsys) -> None:
    _, out, _ = run(capsys, *folders)
    header = next(line for line in out.splitlines() if "collection" in line)
    assert header.split() == ["collection", "found", "chunked"]


def test_files_of_no_format_that_is_read_are_told_by_kind(folders, capsys) -> None:
    docs = Path(folders[1]) / "docs"
    for name in ("a.csv", "b.csv", "c.png", "strange"):
        (docs / name).write_text("x")
    _, out, _ = run(capsys, *folders)
    assert out.splitlines()[-1] == "docs: skipped: 2 .csv, 1 .png, 1 no extension"
    _, out, _ = run(capsys, *folders, "--json")
    kinds = {".csv": 2, ".png": 1, "no extension": 1}
    assert json.loads(out)["collections"][0]["skipped"] == kinds


def test_a_warning_names_the_collection_once(folders, capsys) -> None:
    (Path(folders[1]) / "docs" / "empty.md").write_text("")
    _, _, err = run(capsys, *folders)
    (line,) = [line for line in err.splitlines() if "empty.md" in line]
    assert " WARNING docs: empty.md: " in line


def test_the_script_runs_alone(folders) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *folders, "--max-tokens", "64", "--overlap", "8"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = Path(folders[3]).rglob("*_chunks.json")
    counts = [r["metadata"]["token_count"] for r in json.loads(path.read_text())]
    assert len(counts) > 5
    assert max(counts) <= 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "all-minilm"], "all-miniLM-l6"),
        (["--profile", "nothing"], "embedded"),
        (["--max-tokens", "512"], "more than the window"),
        (["--max-tokens", "20"], "at least 32"),
        (["--max-tokens", "0"], "at least 32"),
        (["--overlap", "200"], "--overlap 200 is not possible"),
        (["--overlap", "-1"], "Use 0 to 127"),
        (["--collections", "dosc"], "Found: docs"),
        (["--input-dir", "nowhere"], "no folder nowhere (--input-dir)"),
        (["--input-dir", __file__], "There is no folder"),
        (["--output-dir", "/proc/none"], "cannot be written"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    folders, capsys, arguments, words
) -> None:
    code, out, err = run(capsys, *folders, *arguments)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err


def test_a_collection_without_a_usable_document_is_exit_code_1(folders, capsys) -> None:
    void = Path(folders[1]) / "void"
    void.mkdir()
    (void / "a.md").write_bytes(bytes(64))
    code, _, err = run(capsys, *folders)
    assert code == 1
    assert "void/a.md: binary" in err
    assert err.splitlines()[-1] == (
        "error: void: No usable chunk (documents: 1, empty: 0, set aside: 1). "
        f"Look at the files in {void}."
    )
    assert (Path(folders[3]) / "docs" / "a_chunks.json").exists()
