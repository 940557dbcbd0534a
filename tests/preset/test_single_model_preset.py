"""The single-model preset: what it chooses, writes, checks and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from processor.ultimate_embedder.cli.embed import embed
from processor.ultimate_embedder.cli.embed_options import BY_KEY
from processor.ultimate_embedder.cli.entry import new_app, register, run_function
from processor.ultimate_embedder.cli.single_model import (
    SINGLE_MODEL,
    settled,
    single_model,
)
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.settings import Settings, resolve

SCRIPT = (
    Path(__file__).resolve().parents[2] / "scripts" / "kaggle_embed_qdrant_ecosystem.py"
)


def write_collection(root: Path, name: str) -> None:
    for subdir in ("client_docs", "edge_docs"):
        folder = root / name / subdir / "guide"
        folder.mkdir(parents=True)
        entries = [
            {"text": f"{subdir} explains part {part}.", "metadata": {"page": part}}
            for part in range(4)
        ]
        (folder / "start_chunks.json").write_text(json.dumps([*entries, {"text": ""}]))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_collection(tmp_path / "Chunked", "qdrant_ecosystem")
    write_collection(tmp_path / "Chunked", "another")
    return tmp_path


def call(
    place: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EMBEDDER_")}
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--workers", "1", *arguments],
        cwd=place,
        env=kept | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf")} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def settings_of(place: Path, **typed: object) -> Settings:
    return resolve(
        {"chunked_dir": (str(place / "Chunked"), "--chunked-dir")}
        | {key: (value, f"--{key}") for key, value in typed.items()},
        directory=place,
        environment={},
        kaggle_root=place / "none",
        preset=SINGLE_MODEL,
    )


@pytest.mark.slow
def test_a_bundle_of_simple_lines_is_made_checked_and_shown(place: Path) -> None:
    done = call(place, "--model", "all-miniLM-l6")
    assert done.returncode == 0, done.stderr
    bundle = place / "Embeddings" / "qdrant_ecosystem"
    made = sorted(path.name for path in bundle.parent.glob("[!.]*"))
    assert made == [bundle.name, f"{bundle.name}_report.html"]
    rows = [
        json.loads(line)
        for line in (bundle / f"{bundle.name}_qdrant.jsonl").read_text().splitlines()
    ]
    assert [row["id"] for row in rows] == [
        f"qdrant_ecosystem:{subdir}:guide/start:chunk:{index}"
        for subdir in ("client_docs", "edge_docs")
        for index in range(4)
    ]
    assert all(set(row) == {"id", "text", "embedding", "metadata"} for row in rows)
    assert rows[0]["metadata"] == {
        "page": 0,
        "collection": "qdrant_ecosystem",
        "source_subdir": "client_docs",
        "source": "client_docs/guide/start",
    }
    vectors = np.load(bundle / f"{bundle.name}_all-miniLM-l6_embeddings.npy")
    stored = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert np.array_equal(stored, vectors)
    assert not list(bundle.glob("*sparse*"))
    for word in ("Chunk ids", "Source subdirectories", "edge_docs", "sound"):
        assert word in done.stdout


@pytest.mark.slow
def test_a_check_that_fails_is_exit_code_1_and_one_line_with_its_cure(
    place: Path,
) -> None:
    """A chunk file that grows after it was read is what the check is to find."""
    driver = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from processor.ultimate_embedder.batch_runner import BatchRunner\n"
        "from processor.ultimate_embedder.cli.start import run_command\n"
        "run = BatchRunner.run\n"
        "def grown(self):\n"
        "    outcome = run(self)\n"
        "    path = Path('Chunked/another/late_docs/x_chunks.json')\n"
        "    path.parent.mkdir()\n"
        "    path.write_text(json.dumps([{'text': 'Too late.'}]))\n"
        "    return outcome\n"
        "BatchRunner.run = grown\n"
        "sys.exit(run_command('single_model'))\n"
    )
    arguments = ["--model", "all-miniLM-l6", "--collections", "another"]
    done = subprocess.run(
        [sys.executable, "-c", driver, *arguments, "--workers", "1"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 1, done.stderr
    [line] = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert "source_subdir 'late_docs'" in line
    assert "the chunk files hold 1" in line
    assert "--fresh" in line
    assert "another: " in done.stdout  # the bundle stands, and is named


@pytest.mark.slow
def test_a_bundle_that_exists_is_counted_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(place, "--model", "all-miniLM-l6", "--exports", "npy,jsonl")
    assert done.returncode == 0, done.stderr
    bundle = str(place / "Embeddings" / "qdrant_ecosystem")
    chunked = ["--chunked-dir", str(place / "Chunked")]
    assert run_function(verify, [bundle, "--statistics"]) == 0
    assert run_function(verify, [bundle, *chunked]) == 0
    out = capsys.readouterr().out
    assert out.count("Source subdirectories") == 2
    assert out.endswith(": whole\n")
    late = place / "Chunked" / "qdrant_ecosystem" / "late_docs"
    late.mkdir()
    (late / "x_chunks.json").write_text('[{"text": "Too late."}]')
    assert run_function(verify, [bundle, *chunked]) == 1
    assert "source_subdir 'late_docs'" in capsys.readouterr().out
    assert run_function(verify, [bundle, *chunked, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["whole"] is False
    assert document["statistics"]["qdrant_ecosystem"]["sound"] is False
    assert run_function(verify, [bundle, "--chunked-dir", str(late.parent)]) == 2
    assert "Found:" in capsys.readouterr().err


def test_without_its_model_it_names_the_one_that_is_installed(place: Path) -> None:
    done = call(place)
    assert done.returncode == 1
    [line] = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert "--model all-miniLM-l6" in line
    assert "nomic-ai/CodeRankEmbed" in line


def test_json_tells_the_error_with_the_same_cure(place: Path) -> None:
    done = call(place, "--log-format", "json")
    assert (done.returncode, done.stdout) == (1, "")
    record = json.loads(done.stderr.splitlines()[-1])
    assert "--model all-miniLM-l6" in record["message"]


def test_its_collection_is_preferred_where_it_is_there(place: Path) -> None:
    chosen = settled(settings_of(place)).pipeline
    assert chosen.collections == ("qdrant_ecosystem",)
    (said,) = [one for one in chosen.provenance if one.key == "collections"]
    assert (said.layer, said.source) == ("default", "preset single model")
    named = settled(settings_of(place, collections=["another"])).pipeline
    assert named.collections == ("another",)
    (place / "Chunked" / "qdrant_ecosystem").rename(place / "Chunked" / "mine")
    assert settled(settings_of(place)).pipeline.collections == ()


def test_it_is_online_and_on_any_gpu_unless_a_profile_is_named(place: Path) -> None:
    alone = settings_of(place).pipeline
    assert (alone.offline, alone.gpu.backend) == (False, "auto")
    named = settings_of(place, profile="embedded").pipeline
    assert (named.offline, named.gpu.backend) == (True, "cpu")
    for pipeline in (alone, named):
        assert [model.name for model in pipeline.dense] == ["nomic-coderank"]
        assert pipeline.jsonl_layout == "simple"
        assert not pipeline.enable_sparse
        assert not pipeline.enable_rerank


@pytest.mark.parametrize(
    ("arguments", "switch"),
    [
        (["--sparse-models", "qdrant-bm25"], "--enable-sparse"),
        (["--rerank-timeout", "3"], "--enable-rerank"),
    ],
)
def test_an_option_of_a_stage_that_is_left_out_asks_for_its_switch(
    place: Path, arguments: list[str], switch: str
) -> None:
    done = call(place, "--dry-run", "--model", "all-miniLM-l6", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert arguments[0] in line
    assert switch in line
    done = call(place, "--dry-run", "--model", "all-miniLM-l6", switch, *arguments)
    assert done.returncode == 0, done.stderr


def test_every_option_of_the_main_job_is_accepted() -> None:
    def options(function: object) -> set[str]:
        app = new_app()
        register(app, function)  # type: ignore[arg-type]
        command = typer.main.get_command(app)
        return {
            name
            for parameter in command.params
            for name in (*parameter.opts, *parameter.secondary_opts)
        }

    assert options(single_model) == options(embed) | {"--model"}
    assert BY_KEY["ensemble_models"].short == ""  # the main job's own has one name
