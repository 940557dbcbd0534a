"""Two runs on one output folder: the second is refused until the first is gone."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from light_command import LOG, PAUSE, encoded, repeated, start, wait_until
from promises import Promise
from torture_parts import Reference, reference, sums

STOPPED = 3


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("rounds", [1, pytest.param(30, marks=pytest.mark.torture)])
def test_the_second_is_refused_and_a_killed_first_leaves_the_folder_free(
    light: Reference, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "Two processes on one output folder: the second ends with 3, naming the first, "
        "which goes on; after kill -9 of the first a third finishes the work"
    )
    log = tmp_path / "log"
    slow = {PAUSE: "0.05", LOG: str(log)}
    for number in promise.rounds(range(rounds)):
        shutil.rmtree(light.root / "out", ignore_errors=True)
        log.unlink(missing_ok=True)
        call = 1 + number % (len(encoded(light.log)) - 2)
        first = start(light.arguments, tmp_path / "first", environment=slow)
        wait_until(lambda call=call: len(encoded(log)) >= call)
        first.signal(signal.SIGSTOP)  # however slowly the second one starts
        second = start(light.arguments, tmp_path / "second", environment=slow)
        assert second.wait() == STOPPED
        first.signal(signal.SIGCONT)
        told = second.last_line_but_resume()
        assert f"Another run (process {first.pid})" in told
        assert not first.ended
        first.signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        third = start(light.arguments, tmp_path / "third", environment={LOG: str(log)})
        assert third.wait() == 0, third.lines
        assert sums(light.root / "out") == light.files
        assert repeated(log, light.log) <= light.largest_batch


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=pytest.mark.torture)])
def test_of_many_that_start_at_once_each_ends_and_the_bundle_is_whole(
    light: Reference, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "Three processes started at once on one folder: each ends with 0 or 3, one "
        "at least with 0, and the bytes are those of one run alone"
    )
    for _ in promise.rounds(range(rounds)):
        shutil.rmtree(light.root / "out", ignore_errors=True)
        log = tmp_path / f"log{os.urandom(4).hex()}"
        children = [
            start(light.arguments, tmp_path / str(one), environment={LOG: str(log)})
            for one in range(3)
        ]
        ends = sorted(child.wait() for child in children)
        assert ends[0] == 0
        assert set(ends) <= {0, STOPPED}
        assert sums(light.root / "out") == light.files
        assert repeated(log, light.log) == 0
