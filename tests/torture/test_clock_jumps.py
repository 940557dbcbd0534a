"""A wall clock that jumps by years, back and forth, changes no byte of a bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from promises import Promise
from torture_parts import COLLECTION, MANIFEST, Reference, reference, sums

from processor.ultimate_embedder.verify import verify_bundle

YEAR = 365 * 24 * 3600
JUMPS = (
    f"{20 * YEAR},{-35 * YEAR}",
    f"{-50 * YEAR},{3 * YEAR}",
    "1,-1,3600,-3600,-7200,7200",
    f"{-1 * YEAR}",
    f"{100 * YEAR}",
)
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(tmp_path_factory.mktemp("clock"), 2)


@pytest.fixture(scope="module")
def jumping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that moves the clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the jumping clock with")
    built = tmp_path_factory.mktemp("built") / "clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", built, HERE / "clock.c", "-ldl"],
        check=True,
    )
    return built


def run_jumping(
    light: Reference, library: Path, jumps: str, step: int
) -> subprocess.CompletedProcess[str]:
    clock = {"CLOCK_JUMPS": jumps, "CLOCK_STEP": str(step), "LD_PRELOAD": str(library)}
    return subprocess.run(
        [sys.executable, HERE / "light_command.py", *light.arguments],
        env=os.environ | clock | {"PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_clock_of_a_child_really_jumps(jumping: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import time, datetime; times = [time.time() for _ in range(9)];"
            "times += [datetime.datetime.now().timestamp() for _ in range(9)];"
            "print(min(times), max(times))",
        ],
        env=os.environ
        | {
            "CLOCK_JUMPS": f"{2 * YEAR},{-4 * YEAR}",
            "CLOCK_STEP": "3",
            "LD_PRELOAD": str(jumping),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    low, high = (float(figure) for figure in done.stdout.split())
    assert high - low > YEAR


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.torture)])
def test_years_back_and_forth_change_no_byte(
    light: Reference, jumping: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "A wall clock that jumps during a run, by hours and by years, back and forth: "
        "exit code 0, the same bytes, and verify finds the bundle whole"
    )
    for number in promise.rounds(range(rounds)):
        jumps = JUMPS[number % len(JUMPS)]
        if number % 3 != 1:  # else the next run finds a bundle from another year
            shutil.rmtree(light.root / "out", ignore_errors=True)
        done = run_jumping(light, jumping, jumps, 1 + number * 7)
        assert done.returncode == 0, done.stderr
        assert sums(light.root / "out") == light.files
        bundle = light.root / "out" / COLLECTION
        assert verify_bundle(bundle).whole
        manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        seconds = [run["seconds"] for run in manifest["dense_run"]]
        assert all(0 <= figure < YEAR for figure in seconds)
