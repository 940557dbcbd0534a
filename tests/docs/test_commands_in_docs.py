"""Commands, options and settings that the documentation names exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from processor.ultimate_embedder.cli.app import app
from processor.ultimate_embedder.setting_table import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "deploy/README.md", *ROOT.glob("docs/*.md")]
OUR_SCRIPT = re.compile(r"scripts/(\w+\.(?:py|txt))")
BLOCK = re.compile(r"^ *```console\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
IDENTIFIER = re.compile(r"--[a-z][a-z0-9-]*")


@cache
def options() -> frozenset[str]:
    """Return the options of all subcommands, and the ones each command has."""
    found = {"--help", "--debug"}
    waiting = [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        waiting.extend(getattr(command, "commands", {}).values())
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return frozenset(found)


def command_lines(page: Path) -> Iterator[str]:
    """Yield the commands in a page's console blocks, continued lines joined."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield from block.replace("\\\n", " ").splitlines()


def pages() -> list[object]:
    """Return the pages as test parameters."""
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


@pytest.mark.parametrize("page", pages())
def test_every_script_that_is_named_exists(page: Path) -> None:
    for name in OUR_SCRIPT.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / "scripts" / name).is_file(), name


@pytest.mark.parametrize("page", pages())
def test_every_option_in_running_text_exists(page: Path) -> None:
    for span in re.findall(r"`(--[^`\n]+)`", page.read_text(encoding="utf-8")):
        for option in IDENTIFIER.findall(span):
            assert option in options(), option


@pytest.mark.parametrize("page", pages())
def test_every_option_of_a_command_line_exists(page: Path) -> None:
    for line in command_lines(page):
        words = shlex.split(line.lstrip(" !"), comments=True)
        program = next((word for word in words if OUR_SCRIPT.search(word)), "")
        if program and (ROOT / program.removeprefix("embedder/")).suffix == ".py":
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given <= options(), line


def test_what_the_commands_of_the_pages_read_and_write_here_is_ignored_by_git() -> None:
    named = r"--(?:input-dir|output-dir|output|data|markdown|path|edge) ([\w.-]+)"
    files = {
        name
        for page in PAGES
        for line in command_lines(page)
        if OUR_SCRIPT.search(line)
        for name in re.findall(named, line)
    }
    assert {"docs_in", "Chunked", "compared.html"} <= files
    if not (ROOT / ".git").exists():
        pytest.skip("a copy without git")
    folders = [f"{name}/" if "." not in name else name for name in sorted(files)]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == folders


def test_every_variable_that_is_read_is_documented() -> None:
    text = (ROOT / "docs/run-it.md").read_text(encoding="utf-8")
    for setting in SETTINGS.values():
        assert setting.variable is None or f"`{setting.variable}`" in text


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        named = re.findall(
            r"^make ([a-z-]+)|`make ([a-z-]+)`", page.read_text(encoding="utf-8"), re.M
        )
        assert {name for pair in named for name in pair if name} <= targets, page
