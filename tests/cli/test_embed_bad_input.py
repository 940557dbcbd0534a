"""Bad input to the real command, as a process: one clear line, the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EMBED = ROOT / "scripts" / "embed_collections_v6.py"
SINGLE_MODEL = ROOT / "scripts" / "kaggle_embed_qdrant_ecosystem.py"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "Chunked" / "docs"
    folder.mkdir(parents=True)
    chunks = [{"text": "One chunk of text."}]
    (folder / "a_chunks.json").write_text(json.dumps(chunks), encoding="utf-8")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def call(
    place: Path, *arguments: str, script: Path = EMBED, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EMBEDDER_", "OTEL_", "JPY_"))
    }
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=place,
        env=kept | {"HF_HUB_OFFLINE": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chunked-dir", "nowhere"], ["nowhere", "--chunked-dir"]),
        (["--chunked-dir", "file"], ["file", "--chunked-dir"]),
        (["--chunked-dir", "Chunked/docs"], ["holds chunk files itself", "its parent"]),
        (["--chunked-dir", "empty"], ["empty holds no collection", "_chunks.json"]),
        (["--collections", "docs", "dox"], ["dox", "Found: docs"]),
        (["--ensemble-models", "bge-m4"], ["'bge-m4'", "'bge-m3'", "Known"]),
        (["--sparse-models", "bm25"], ["'bm25'", "qdrant-bm25"]),
        (["--rerank-model", "./nowhere"], ["./nowhere", "folder", "Known"]),
        (["--profile", "huge"], ["huge", "embedded, kaggle-t4x2"]),
        (["--output-dir", "file/out"], ["file/out", "cannot be written"]),
        (["--enable-rerank", "--disable-rerank"], ["exclude each other"]),
        (["--resume", "--fresh"], ["exclude each other"]),
        (["--device", "tpu"], ["--device", "tpu", "cuda"]),
        (["--gpu-memory-cap", "0"], ["--gpu-memory-cap", "above 0"]),
        (["--jsonl-layout", "wide"], ["wide", "qdrant, simple"]),
        (["--exports", "npy,csv"], ["is 'npy,csv';", "npy, jsonl, faiss"]),
        (["--queries", "none.jsonl"], ["none.jsonl", "--queries"]),
        (["--config", "none.toml"], ["none.toml"]),
        (["--no-such-option"], ["--no-such-option", "--help"]),
        (["docs"], ["docs", "--help"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_usage_is_one_line_and_exit_code_2(
    place: Path, arguments: list[str], words: list[str]
) -> None:
    done = call(place, *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_a_bad_variable_is_one_line_and_exit_code_2(place: Path) -> None:
    done = call(place, EMBEDDER_ENABLE_RERANK="perhaps")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "EMBEDDER_ENABLE_RERANK is 'perhaps'" in line
    assert "true" in line


def test_a_bad_line_of_dotenv_is_one_line_and_exit_code_2(place: Path) -> None:
    (place / ".env").write_text("A=1\nEMBEDDER_RERANK_BATCH_CAP=-3\n", encoding="utf-8")
    done = call(place)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert ".env:2: EMBEDDER_RERANK_BATCH_CAP is '-3'" in line


def test_debug_shows_where_it_went_wrong(place: Path) -> None:
    done = call(place, "--collections", "dox", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_an_error_under_json_is_an_object(place: Path) -> None:
    done = call(place, "--log-format", "json", "--collections", "dox")
    assert done.returncode == 2
    assert done.stdout == ""
    record = json.loads(done.stderr.splitlines()[-1])
    assert record["level"] == "error"
    assert "dox" in record["message"]


@pytest.mark.parametrize(
    "arguments",
    [["--device", "gpu"], ["--disable-sparse", "--sparse-models", "splade"]],
)
def test_a_setting_that_cannot_be_is_an_object_under_json_too(
    place: Path, arguments: list[str]
) -> None:
    done = call(place, "--log-format", "json", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["exit_code"] == 2


def test_a_dry_run_plans_and_writes_nothing(place: Path) -> None:
    done = call(place, "--dry-run", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    (collection,) = json.loads(done.stdout)["collections"]
    assert (collection["name"], collection["chunks"]) == ("docs", 1)
    (model,) = collection["models"]
    assert model["tokens"] == 7  # [CLS] one chunk of text . [SEP]
    assert not (place / "Embeddings").exists()


def test_a_plan_tells_files_set_aside_from_chunks(place: Path) -> None:
    folder = place / "Chunked" / "docs"
    (folder / "b_chunks.json").write_text("torn [", encoding="utf-8")
    entries = [{"text": "One more."}, {"text": ""}, {"text": 3}]
    (folder / "c_chunks.json").write_text(json.dumps(entries), encoding="utf-8")
    done = call(place, "--dry-run", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    (collection,) = json.loads(done.stdout)["collections"]
    counts = [collection[key] for key in ("chunks", "chunks_aside", "files_aside")]
    assert counts == [2, 2, 1]


def test_the_layers_meet_in_the_header(place: Path) -> None:
    (place / "ultimate-embedder.toml").write_text("seed = 1\nprobes = false\n")
    (place / ".env").write_text("EMBEDDER_ENABLE_SPARSE=off\n", encoding="utf-8")
    done = call(place, "--dry-run", "--device", "cpu", EMBEDDER_ENABLE_RERANK="no")
    assert done.returncode == 0, done.stderr
    assert ".env: .env:1" in done.stdout
    assert "environment: EMBEDDER_ENABLE_RERANK" in done.stdout
    assert "config file: ultimate-embedder.toml:2" in done.stdout
    assert "command line: --device" in done.stdout
    assert "12 GiB per GPU" in done.stdout


def test_the_single_model_preset_is_a_default_that_options_override(
    place: Path,
) -> None:
    done = call(
        place,
        "--dry-run",
        "--ensemble-models",
        "all-miniLM-l6",
        "--enable-sparse",
        script=SINGLE_MODEL,
    )
    assert done.returncode == 0, done.stderr
    rows = {
        line.split("  ")[1].strip(): line
        for line in done.stdout.splitlines()
        if line
        if line.startswith("  ") and len(line.split("  ")) > 2
    }
    assert "off" in rows["rerank"]
    assert "preset single model" in rows["rerank"]
    assert "JSONL layout simple" in rows["exports"]
    assert "preset single model" in rows["exports"]
    assert "command line: --enable-sparse" in rows["sparse"]
    assert "all-miniLM-l6 (384-d" in rows["dense"]


def test_the_help_of_the_preset_tells_its_own_defaults(place: Path) -> None:
    done = call(place, "--help", script=SINGLE_MODEL)
    help_text = " ".join(done.stdout.split())
    assert "embedding a line. Default: simple." in help_text
    assert "Make sparse vectors, or none. Default: disabled." in help_text
    assert "main one. Default: nomic-coderank." in help_text
    assert "Vector files to write. Default: all three." in help_text


def test_the_preset_names_its_model_when_it_cannot_be_had(place: Path) -> None:
    done = call(place, "--offline", script=SINGLE_MODEL, HF_HOME=str(place / "hf"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "nomic-ai/CodeRankEmbed" in done.stderr
    assert "Traceback" not in done.stderr
