"""Figures that stand in two places agree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_newest_version_of_the_changelog_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?([0-9][^\s\]]*)", changelog, re.MULTILINE)
    assert versions[0] == project["project"]["version"]


def test_notebook_requirements_are_those_of_the_lock() -> None:
    script = ROOT / "scripts" / "kaggle_requirements.py"
    command = [sys.executable, str(script)]
    derived = subprocess.run(command, capture_output=True, text=True, check=True)
    stored = ROOT / "scripts" / "requirements_kaggle.txt"
    assert derived.stdout == stored.read_text(encoding="utf-8")


def test_notebook_requirements_leave_the_torch_of_the_notebook_alone() -> None:
    stored = ROOT / "scripts" / "requirements_kaggle.txt"
    names = {
        re.split(r"[=; ]", line)[0]
        for line in stored.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = {
        re.split(r"[<>=!~\[; ]", wish)[0] for wish in project["project"]["dependencies"]
    }
    assert names >= asked - {"torch"}
    assert not {name for name in names if name.startswith(("torch", "nvidia", "cuda"))}
