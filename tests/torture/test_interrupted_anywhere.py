"""A run that is interrupted at any call that changes a file ends as if it had not been.

Each round interrupts a run of all stages at one of its calls, starts the same command
again, and compares every file of the bundle, the manifest aside, with those of a run
that nothing disturbed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import Fault, Faults, in_child
from light_command import encoded, repeated
from promises import Promise
from torture_parts import config_of, leftovers, run_once, some_pages, sums, write_pages

SHORT = 9
PUBLISHING = 4
LONG = 200
STOPPED, WRONG_USE = 3, 2


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives when nothing happens, and how many calls it makes."""

    root: Path
    calls: int
    files: dict[str, str]
    log: Path

    @property
    def largest_batch(self) -> int:
        """Texts in flight at once, in the one worker there is."""
        return max(len(call) for call in encoded(self.log))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = tmp_path_factory.mktemp("torture")
    write_pages(root / "chunked", some_pages(12))
    config = config_of(root, "reference")
    faults = Faults("none", 0, root)
    log = root / "reference.log"
    status, calls = in_child(lambda: run_once(config, log), faults)
    assert status == 0
    assert calls >= LONG
    return Undisturbed(root, calls, sums(root / "reference"), log)


def moments(calls: int, rounds: int) -> list[int]:
    """Return call numbers spread over a run, the first and the last few among them.

    The last few publish the bundle.
    """
    if rounds >= calls:
        return list(range(1, calls + 1))
    spread = {1 + round(n * (calls - 1) / (rounds - 1)) for n in range(rounds)}
    return sorted(spread | set(range(calls - PUBLISHING + 1, calls + 1)))


def interrupt_and_resume(
    undisturbed: Undisturbed,
    make: Callable[[int], Faults],
    moments: Iterable[int],
    expected: tuple[int, ...],
) -> None:
    log = undisturbed.root / "log"
    output = undisturbed.root / "out"
    config = config_of(undisturbed.root)
    struck = rounds = 0
    for moment in moments:
        shutil.rmtree(output, ignore_errors=True)
        log.unlink(missing_ok=True)
        status, _ = in_child(lambda: run_once(config, log), make(moment))
        rounds += 1
        struck += status in expected
        assert status in (0, *expected), f"call {moment}: status {status}"
        if (output / "docs").exists():  # whole or not there
            assert sums(output) == undisturbed.files, f"call {moment}"
        assert in_child(lambda: run_once(config, log))[0] == 0, f"call {moment}"
        assert sums(output) == undisturbed.files, f"call {moment}"
        assert leftovers(output) == [], f"call {moment}"
        assert repeated(log, undisturbed.log) <= undisturbed.largest_batch
    # Near the end a call may be one that is allowed to fail; most must strike.
    assert struck >= 0.8 * rounds


@pytest.mark.parametrize(
    "rounds", [SHORT, pytest.param(LONG, marks=pytest.mark.torture)]
)
def test_killed_at_any_call(
    undisturbed: Undisturbed, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "kill -9 at any call that changes a file, over all stages: the same command "
        "ends with 0 and the same bytes; nothing is embedded twice but one batch"
    )
    times = promise.rounds(moments(undisturbed.calls, rounds))

    def kill(moment: int) -> Faults:
        return Faults("kill", moment, undisturbed.root)

    interrupt_and_resume(undisturbed, kill, times, (-9,))


@pytest.mark.parametrize(
    "rounds", [SHORT, pytest.param(LONG, marks=pytest.mark.torture)]
)
def test_power_cut_at_any_call(
    undisturbed: Undisturbed, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "A power cut at any such call, unsynced writes lost or torn: the same"
    )
    times = promise.rounds(moments(undisturbed.calls, rounds))

    def cut(moment: int) -> Faults:
        return Faults("power cut", moment, undisturbed.root, seed=rounds)

    interrupt_and_resume(undisturbed, cut, times, (-9,))


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "EACCES"])
@pytest.mark.parametrize(
    "rounds", [SHORT // 3, pytest.param(50, marks=pytest.mark.torture)]
)
def test_refused_at_any_call(
    undisturbed: Undisturbed, fault: Fault, rounds: int, promise: Promise
) -> None:
    promise.holds(
        f"{fault} from any such call: exit code 3, no half bundle, then the same bytes"
    )
    times = promise.rounds(moments(undisturbed.calls, rounds))

    def refuse(moment: int) -> Faults:
        return Faults(fault, moment, undisturbed.root, sticky=fault == "ENOSPC")

    # A folder that cannot be made at all is a wrong --output-dir, unless it is full.
    expected = (STOPPED,) if fault == "ENOSPC" else (STOPPED, WRONG_USE)
    interrupt_and_resume(undisturbed, refuse, times, expected)
