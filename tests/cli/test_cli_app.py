"""All commands hang under one entry point, and each script is one of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from processor.ultimate_embedder.cli.app import app
from processor.ultimate_embedder.cli.entry import run

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "chunk",
    "embed",
    "search",
    "serve",
    "verify",
    "repair",
    "clean",
    "report",
    "evaluate",
    "upload",
    "adapt",
)
MODELS = tuple(
    f"models {name}" for name in ("list", "show", "check", "fetch", "export")
)
SCRIPTS = {
    "chunk_docs_v5.py": "--max-tokens",
    "embed_collections_v6.py": "--chunked-dir",
    "kaggle_embed_qdrant_ecosystem.py": "nomic-coderank",
    "search_bundle.py": "--filter",
    "verify_bundle.py": "--deep",
    "repair_bundle.py": "--chunked-dir",
    "clean_work.py": "--dry-run",
    "evaluate_bundle.py": "--qrels",
    "upload_to_qdrant.py": "--url",
}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["--help"]) == 0
    out = capsys.readouterr().out
    for name in (*COMMANDS, "models"):
        assert f"\n  {name} " in out


@pytest.mark.parametrize("command", [*COMMANDS, *MODELS])
def test_each_command_has_help_that_names_debug(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, [*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "--debug" in out
    assert "\x1b" not in out
    assert not re.search(r"<list|<str>|<path>|range>", out)
    assert run(app, [*command.split(), "-h"]) == 0
    assert capsys.readouterr().out == out


def test_the_version_is_that_of_the_project(
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert run(app, ["--version"]) == 0
    out, err = capsys.readouterr()
    assert out == f"ultimate-embedder {project['project']['version']}\n"
    assert err == ""


def test_a_mistyped_command_is_answered_with_the_nearest_in_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(app, ["models", "lst"]) == 2
    err = capsys.readouterr().err
    assert "No such command 'lst'. Did you mean 'list'? See " in err


@pytest.mark.parametrize("command", [*COMMANDS, *MODELS])
def test_each_command_tells_its_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, [*command.split(), "--help"]) == 0
    assert "Exit code" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["search", "serve"])
def test_rerankers_of_the_hub_are_offered_where_they_are_taken(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, [command, "--help"]) == 0
    assert "--rerank-model KEY|ORG/NAME|DIR" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["models"], ["no-such"], ["embed", "--x"]])
def test_a_wrong_command_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "--help" in err
    assert err.count("\n") == 1


def test_the_installed_entry_point_is_this_application() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("ultimate-embedder"), "models", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "all-miniLM-l6" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_runs_from_any_folder_without_an_installation(
    script: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--help"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert SCRIPTS[script] in done.stdout
    assert f"python {ROOT / 'scripts' / script}" in " ".join(done.stdout.split())


def test_importing_the_application_loads_no_heavy_library() -> None:
    code = (
        "import sys, processor.ultimate_embedder.cli.app;"
        "print(*{'torch', 'transformers', 'faiss', 'qdrant_client'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
