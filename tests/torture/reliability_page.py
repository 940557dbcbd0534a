"""The page of promises: what was tried, how often, and with what outcome."""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from processor.ultimate_embedder.hardware import this_machine

_ROW = re.compile(r"\| .* \| `([^`]+)` \| ")
_TESTS = Path(__file__).resolve().parents[1]
_LIBRARIES = ("numpy", "torch", "faiss-cpu", "tokenizers", "orjson")

_HEAD = """# Reliability

What is promised of a run that meets trouble, and how often each promise was tried. The
table is written by `make torture`; the rounds are those that really ran, each row with
the day and the commit.

"""

_NOT_PROVED = Path(__file__).with_name("not_proved.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Kept:
    """One test with its promise, and what became of it."""

    promise: str
    test: str
    rounds: int
    outcome: str
    reason: str = ""

    @property
    def told(self) -> str:
        """Return the outcome for the table."""
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome


def page(kept: Sequence[Kept], before: str = "") -> str:
    """Return the page in Markdown; rows of `before` stay for tests that did not run."""
    lines = {
        found[1]: line
        for line in before.splitlines()
        if (found := _ROW.match(line)) and (_TESTS / found[1].split("::")[0]).is_file()
    }
    ran = f"{datetime.now(UTC):%Y-%m-%d}, {_commit()}"
    for one in kept:
        name = _cell(_test(one.test))
        lines[name] = (
            f"| {_cell(one.promise)} | `{name}` | {one.rounds:,} "
            f"| {_cell(one.told)} | {ran} |"
        )
    return (
        _HEAD
        + "\n".join(_circumstances())
        + "\n\n| promise | test | rounds | outcome | tried, at commit |\n"
        + "|---|---|---:|---|---|\n"
        + "\n".join(lines[name] for name in sorted(lines))
        + "\n\n"
        + _NOT_PROVED
    )


def _circumstances() -> list[str]:
    machine = this_machine()
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    return [
        f"- Machine: {machine.processor}, {machine.cores} cores; "
        f"{platform.system()} {platform.release()}; tests write on {_filesystem()}.",
        f"- Python {platform.python_version()}; {libraries}.",
    ]


def _commit() -> str:
    """Return the commit, marked where files but this page differ from it."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", ":/", ":(exclude,top)docs/*.md")
    return f"{commit or 'unknown'}{'-dirty' if changed else ''}"


def _git(*arguments: str) -> str:
    command = ("git", *arguments)
    here = Path(__file__).parent
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=here
    )
    return done.stdout.strip()


def _filesystem() -> str:
    """Return the type of the file system where tests write."""
    done = subprocess.run(
        ["stat", "--file-system", "--format=%T", tempfile.gettempdir()],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "an unknown file system"


def _test(name: str) -> str:
    """Return the node id below the folder of tests."""
    return name.removeprefix("tests/")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
