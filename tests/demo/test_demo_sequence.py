"""The demo's steps are commands that exist, with options that they know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from demo_scripts import SCRIPTS, load_script

demo = load_script(SCRIPTS / "demo.py")
STEPS = demo.steps(Path("work"), full=True)


def test_the_demo_goes_from_files_to_three_searches() -> None:
    assert [script for _, script, _ in STEPS] == [
        "demo_corpus.py",
        "chunk_docs_v5.py",
        "embed_collections_v6.py",
        "verify_bundle.py",
        "upload_to_qdrant.py",
        "upload_to_qdrant.py",
        "search_bundle.py",
        "search_bundle.py",
        "search_bundle.py",
    ]


@pytest.mark.parametrize("script", sorted({script for _, script, _ in STEPS}))
def test_each_command_knows_the_options_the_demo_gives_it(script: str) -> None:
    used = {
        argument
        for _, name, arguments in STEPS
        for argument in arguments
        if name == script and argument.startswith("--")
    }
    result = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert {option for option in used if option not in result.stdout} == set()


def test_the_search_that_the_demo_ends_with_names_the_python_that_it_ran_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert demo.own_search(Path("demo/small")) == (
        ".venv/bin/python scripts/search_bundle.py "
        'demo/small/bundles/qdrant_ecosystem "your words"'
    )
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert demo.own_search(Path("demo/small")).startswith("/usr/bin/python3 scripts/")


def test_a_failing_step_ends_the_demo_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken_steps(_work: Path, *, full: bool) -> list:
        return [
            ("Broken", "upload_to_qdrant.py", (str(tmp_path), "--no-such-option")),
            ("Never", "demo_corpus.py", ("--output-dir", str(tmp_path / "never"))),
        ]

    monkeypatch.setattr(demo, "steps", broken_steps)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--work-dir", str(tmp_path)])
    assert demo.main() == 2
    assert "upload_to_qdrant.py ended with exit code 2" in capfd.readouterr().err
    assert not (tmp_path / "never").exists()
