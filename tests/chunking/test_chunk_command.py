"""The command as an operator meets it: output, messages, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
        (["--overlap", "200"], "overlap"),
        (["--collections", "dosc"], "Found: docs"),
        (["--input-dir", "nowhere"], "does not exist"),
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
    assert (Path(folders[3]) / "docs" / "a_chunks.json").exists()
