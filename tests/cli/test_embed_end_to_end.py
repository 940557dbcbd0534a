"""The real command on a few chunks: what goes to a pipe, and what a second run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "embed_collections_v6.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    for name, texts in (
        ("good", ["How vectors are stored.", "How filters are applied.", " "]),
        ("hollow", [" ", ""]),
    ):
        folder = root / "Chunked" / name
        folder.mkdir(parents=True)
        chunks = [{"text": text} for text in texts]
        (folder / "a_chunks.json").write_text(json.dumps(chunks), encoding="utf-8")
    (root / "q.jsonl").write_text('{"_id": "1", "text": "filters"}\n', encoding="utf-8")
    return root


def call(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--offline", "--workers", "1", *arguments],
        cwd=place,
        env={**os.environ, "HF_HOME": str(place / "hf")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_a_pipe_gets_tables_and_log_lines_without_control_characters(
    place: Path,
) -> None:
    done = call(place, "--collections", "good", "--queries", "q.jsonl")
    assert done.returncode == 0, done.stderr
    for stream in (done.stdout, done.stderr):
        assert [char for char in stream if char != "\n" and ord(char) < 32] == []
    for words in ("Collections", "Stages", "all-miniLM-l6", "qdrant-bm25", "p50"):
        assert words in done.stdout
    assert "good: Embeddings/good" in done.stdout
    assert (place / "Embeddings" / "good" / "processing_summary.json").is_file()


def test_json_keeps_both_streams_pure(place: Path) -> None:
    done = call(place, "--collections", "good", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (collection,) = document["collections"]
    assert (collection["name"], collection["chunks"]) == ("good", 2)
    for line in done.stderr.splitlines():
        assert json.loads(line)["level"]


def test_a_collection_without_a_usable_chunk_is_1_and_the_other_is_done(
    place: Path,
) -> None:
    done = call(place, "--disable-rerank")
    assert done.returncode == 1
    assert "good: Embeddings/good" in done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: hollow: ")
    assert not (place / "Embeddings" / "hollow").exists()


def test_the_manifest_names_the_layers(place: Path) -> None:
    call(place, "--collections", "good", "--disable-sparse")
    path = place / "Embeddings" / "good" / "processing_summary.json"
    toggles = json.loads(path.read_text(encoding="utf-8"))["feature_toggles"]
    layers = {entry["key"]: entry["layer"] for entry in toggles["provenance"]}
    assert toggles["enable_sparse"] is False
    assert layers["enable_sparse"] == "command line"
    assert layers["enable_rerank"] == "default"
