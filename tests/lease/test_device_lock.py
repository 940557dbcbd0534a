"""A card has one holder at a time, between real processes too."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
from pathlib import Path
from threading import Timer

import pytest
from lease_parts import another_process_holds

from processor.ultimate_embedder.errors import DeviceBusy, OutputError
from processor.ultimate_embedder.gpu_lease import Leases
from processor.ultimate_embedder.telemetry.events import Warned, silent
from processor.ultimate_embedder.testing import FakeDeviceProbe, RecordingListener

BOTH = ("cuda:0", "cuda:1")


def leases(folder: Path, wait_seconds: float = 0.0) -> Leases:
    return Leases(
        probe=FakeDeviceProbe(), lock_dir=folder / "locks", wait_seconds=wait_seconds
    )


def test_a_card_that_another_process_holds_is_refused_and_the_holder_named(
    tmp_path: Path,
) -> None:
    ours = leases(tmp_path)
    with another_process_holds(ours.lock_dir, "cuda:0") as other:
        with (
            pytest.raises(DeviceBusy) as refused,
            ours.hold("ours", BOTH, stage="dense", emit=silent),
        ):
            pytest.fail("the card was lent twice")
        with ours.hold("ours", ["cuda:1"], stage="dense", emit=silent):
            pass  # the other card is free again after the refusal
    told = refused.value.message
    assert f"process {other.pid} for the-other-model since 20" in told
    assert "cuda:0 (pretended card)" in told
    assert "--gpu-wait" in str(refused.value)
    assert refused.value.exit_code == 3


def test_a_holder_killed_by_signal_9_leaves_the_card_free(tmp_path: Path) -> None:
    ours = leases(tmp_path)
    with another_process_holds(ours.lock_dir, *BOTH) as other:
        other.kill()
        other.wait()
        with ours.hold("ours", BOTH, stage="dense", emit=silent) as lease:
            assert lease.devices == BOTH


def test_a_second_hold_in_one_process_is_refused_too(tmp_path: Path) -> None:
    ours = leases(tmp_path)
    with (
        ours.hold("first", ["cuda:0"], stage="dense", emit=silent),
        pytest.raises(DeviceBusy, match=f"process {os.getpid()} for first"),
        ours.hold("second", ["cuda:0"], stage="dense", emit=silent),
    ):
        pytest.fail("the card was lent twice")
    with ours.hold("second", ["cuda:0"], stage="dense", emit=silent):
        pass


def test_waiting_ends_when_the_card_is_free_and_is_told_once(tmp_path: Path) -> None:
    ours = leases(tmp_path, wait_seconds=60)
    heard = RecordingListener()
    with another_process_holds(ours.lock_dir, "cuda:0") as other:
        ending = Timer(0.5, other.kill)
        ending.start()
        with ours.hold("ours", ["cuda:0"], stage="dense", emit=heard):
            assert other.wait() != 0  # it held the card to its end
        ending.join()
    (line,) = [event.message for event in heard if isinstance(event, Warned)]
    assert re.match(r"Waiting up to \d+ s for cuda:0 \(pretended card\)", line)
    assert f"process {other.pid}" in line


def test_waiting_in_vain_ends_in_a_refusal(tmp_path: Path) -> None:
    ours = leases(tmp_path, wait_seconds=0.3)
    heard = RecordingListener()
    with (
        another_process_holds(ours.lock_dir, "cuda:0"),
        pytest.raises(DeviceBusy),
        ours.hold("ours", ["cuda:0"], stage="dense", emit=heard),
    ):
        pytest.fail("the card was lent twice")
    assert len(heard.of(Warned)) == 1


def test_a_lock_file_that_was_cleaned_away_is_made_again(tmp_path: Path) -> None:
    ours = leases(tmp_path)
    for _ in range(2):
        with ours.hold("ours", ["cuda:0"], stage="dense", emit=silent):
            (lock,) = ours.lock_dir.iterdir()
        lock.unlink()


def test_the_folder_is_this_users_alone(tmp_path: Path) -> None:
    ours = leases(tmp_path)
    with ours.hold("ours", ["cuda:0"], stage="dense", emit=silent):
        assert stat.S_IMODE(ours.lock_dir.stat().st_mode) == 0o700


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(OutputError, match="not a folder of this user"),
        leases(tmp_path).hold("ours", ["cuda:0"], stage="dense", emit=silent),
    ):
        pytest.fail("a link was followed")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (
        pytest.raises(OutputError, match=r"cannot be locked: .*TMPDIR"),
        leases(tmp_path).hold("ours", ["cuda:0"], stage="dense", emit=silent),
    ):
        pytest.fail("a card was lent without a lock")


def test_a_full_disk_costs_the_name_of_the_holder_and_not_the_card(
    tmp_path: Path,
) -> None:
    ours = leases(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with (
            ours.hold("first", ["cuda:0"], stage="dense", emit=silent),
            pytest.raises(DeviceBusy, match="held by another process"),
            ours.hold("second", ["cuda:0"], stage="dense", emit=silent),
        ):
            pytest.fail("the card was lent twice")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
