"""System calls that fail below Python, where no wrapper sees them: SQLite's too."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from light_command import LOG, repeated, start
from promises import Promise
from torture_parts import COLLECTION, Reference, leftovers, reference, sums

CALLS = ("pwrite64", "fdatasync", "fsync", "rename,renameat2", "ftruncate", "unlink")
WRITTEN = ("chunks.jsonl", "ledger.sqlite", "ledger.sqlite-wal")
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS")
MOST_CALLS = 60
STOPPED, WRONG_USE = 3, 2


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(tmp_path_factory.mktemp("calls"))


@pytest.fixture(scope="module")
def strace(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    tried = [program, "-f", "-e", "inject=fsync:error=EIO:when=1", "true"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("this process may not trace another")
    return program


def injections(light: Reference, rounds: int) -> Iterator[list[str]]:
    """Yield options of strace that make a call fail, once or from then on."""
    chance = random.Random(rounds)
    work = light.root / "out" / ".work" / COLLECTION
    for number in range(rounds):
        error = ERRORS[number // 2 % len(ERRORS)]
        once = chance.randrange(1, MOST_CALLS)
        when = f"{once}+" if chance.random() < 0.3 else str(once)
        if number % 4 == 3:  # write: but not to the terminal
            places = [f"-P{work / name}" for name in WRITTEN]
            yield [*places, "-e", f"inject=write:error={error}:when={when}"]
            continue
        call = CALLS[number % len(CALLS)]
        yield ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]


@pytest.mark.parametrize("rounds", [2, pytest.param(80, marks=pytest.mark.torture)])
def test_a_failing_system_call_costs_nothing(
    light: Reference, strace: str, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "System calls made to fail by strace (pwrite, write, fsync, rename, truncate, "
        "unlink; EIO, ENOSPC, EDQUOT, EROFS): exit code 0 or 3, then the same bytes"
    )
    log = tmp_path / "log"
    here = Path(__file__).parent
    environment = os.environ | {LOG: str(log), "PYTHONPATH": str(here.parents[1])}
    for injection in promise.rounds(injections(light, rounds)):
        shutil.rmtree(light.root / "out", ignore_errors=True)
        log.unlink(missing_ok=True)
        command = [sys.executable, here / "light_command.py", *light.arguments]
        done = subprocess.run(
            [strace, "-f", "-qq", "-o", tmp_path / "trace", *injection, *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        told = (injection, done.stderr)
        assert done.returncode in (0, STOPPED, WRONG_USE), told
        assert "Traceback" not in done.stderr, told
        if done.returncode == STOPPED:
            assert done.stderr.splitlines()[-1].startswith("resume with: "), told
        if (light.root / "out" / COLLECTION).exists():
            assert sums(light.root / "out") == light.files, told
        child = start(light.arguments, tmp_path / "said", environment={LOG: str(log)})
        assert child.wait() == 0, (injection, child.lines)
        assert sums(light.root / "out") == light.files, told
        assert leftovers(light.root / "out") == [], told
        assert repeated(log, light.log) <= light.largest_batch, told
