"""Signals to the real command: it ends in order, or goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
from light_command import (
    LOG,
    PAUSE,
    RESUME,
    WORKERS,
    Child,
    encoded,
    repeated,
    start,
    wait_until,
)
from promises import Promise
from torture_parts import Reference, reference, sums

STOPPED = 3
SLOWLY = {PAUSE: "0.03"}
rounds_of = pytest.mark.parametrize(
    "rounds", [1, pytest.param(40, marks=pytest.mark.torture)]
)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(tmp_path_factory.mktemp("signals"))


def calls_to_strike(light: Reference, rounds: int) -> Iterable[int]:
    """Return numbers of encoder calls, at random and the first."""
    chance = random.Random(rounds)
    last = len(encoded(light.log)) - 1
    return [1, *(chance.randint(1, last) for _ in range(rounds - 1))]


def begun(light: Reference, call: int, log: Path, **environment: str) -> Child:
    """Start the command from nothing and wait for that call of its encoder."""
    shutil.rmtree(light.root / "out", ignore_errors=True)
    log.unlink(missing_ok=True)
    said = log.with_suffix(".said")
    child = start(
        light.arguments, said, environment={**SLOWLY, LOG: str(log), **environment}
    )
    wait_until(lambda: len(encoded(log)) >= call or child.ended)
    return child


def finished(light: Reference, log: Path) -> None:
    """Run the same command to its end and compare everything."""
    child = start(
        light.arguments, log.with_suffix(".said"), environment={LOG: str(log)}
    )
    assert child.wait() == 0, child.lines
    assert sums(light.root / "out") == light.files


@rounds_of
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_in_order_with_the_command_that_resumes(
    light: Reference,
    tmp_path: Path,
    number: signal.Signals,
    rounds: int,
    promise: Promise,
) -> None:
    promise.holds(
        f"{number.name}: exit code 3, one line and the command that resumes; what was "
        "embedded is kept but for the batch at hand; the same bytes afterwards"
    )
    log = tmp_path / "log"
    for call in promise.rounds(calls_to_strike(light, rounds)):
        child = begun(light, call, log)
        child.signal(number)
        assert child.wait() == STOPPED
        stopped, resume = child.lines[-2:]
        assert stopped.startswith("error: Stopped by a signal")
        assert resume.startswith(RESUME)
        assert shlex.split(resume)[-len(light.arguments) :] == light.arguments
        assert not any("Traceback" in line for line in child.lines)
        assert not (light.root / "out" / "docs").exists()
        finished(light, log)
        assert repeated(log, light.log) <= light.largest_batch


@rounds_of
def test_a_second_ctrl_c_ends_it_as_well(
    light: Reference, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds("Ctrl-C twice and more, quickly: exit code 3, the same bytes later")
    log = tmp_path / "log"
    for call in promise.rounds(calls_to_strike(light, rounds)):
        child = begun(light, call, log, **{WORKERS: "1"})
        while not child.ended:
            child.signal(signal.SIGINT)
        assert child.wait() == STOPPED, child.lines
        assert not any("Traceback" in line for line in child.lines), child.lines
        finished(light, log)


@rounds_of
def test_stopped_and_continued(
    light: Reference, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds("SIGSTOP, then SIGCONT: the run goes on to the same bytes")
    log = tmp_path / "log"
    for call in promise.rounds(calls_to_strike(light, rounds)):
        child = begun(light, call, log)
        child.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        before = encoded(log)
        assert not child.ended
        child.signal(signal.SIGCONT)
        assert child.wait() == 0, child.lines
        assert encoded(log)[: len(before)] == before
        assert sums(light.root / "out") == light.files
        assert repeated(log, light.log) == 0


def workers_of(child: Child) -> list[int]:
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    return [int(number) for number in children.read_text().split()]


@rounds_of
@pytest.mark.parametrize("fate", ["continued", "killed"])
def test_a_worker_stopped_or_killed(
    light: Reference, tmp_path: Path, fate: str, rounds: int, promise: Promise
) -> None:
    promise.holds(
        f"One of two worker processes stopped and {fate}: the run goes on to the same "
        "bytes, and nothing is embedded twice but the batch at hand"
    )
    log = tmp_path / "log"
    for call in promise.rounds(calls_to_strike(light, rounds)):
        child = begun(light, call, log, **{WORKERS: "2"})
        if workers := workers_of(child):
            os.kill(workers[0], signal.SIGSTOP)
            kill = fate == "killed"
            os.kill(workers[0], signal.SIGKILL if kill else signal.SIGCONT)
        assert child.wait() == 0, child.lines
        assert sums(light.root / "out") == light.files
        allowed = light.largest_batch if fate == "killed" else 0
        assert repeated(log, light.log) <= allowed
