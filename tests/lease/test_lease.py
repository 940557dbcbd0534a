"""What a lease measures, refuses and gives back, on a pretended card."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.config import GIB
from processor.ultimate_embedder.device_lock import lock_folder
from processor.ultimate_embedder.errors import DeviceBusy, MemoryCapExceeded
from processor.ultimate_embedder.gpu_lease import (
    RELEASE_TOLERANCE_BYTES,
    Lease,
    Leases,
    allocator_limit,
)
from processor.ultimate_embedder.telemetry.events import LeaseChanged, Warned, silent
from processor.ultimate_embedder.testing import FakeDeviceProbe, RecordingListener

CARD = "cuda:0"


def leases(folder: Path, probe: FakeDeviceProbe, cap_bytes: int = 12 * GIB) -> Leases:
    return Leases(probe=probe, cap_bytes=cap_bytes, lock_dir=folder)


def test_a_loan_tells_what_was_held_before_at_most_and_after(tmp_path: Path) -> None:
    probe, heard = FakeDeviceProbe(), RecordingListener()
    with (
        probe.charged(CARD, GIB),
        leases(tmp_path, probe).hold("m", [CARD], stage="dense", emit=heard) as lease,
    ):
        with probe.charged(CARD, 5 * GIB):
            lease.sample(CARD)
        assert lease.peak_bytes == {CARD: 6 * GIB}
    acquired, released = heard
    assert isinstance(acquired, LeaseChanged)
    assert isinstance(released, LeaseChanged)
    assert (acquired.action, acquired.before_bytes) == ("acquired", GIB)
    assert (released.action, released.stage, released.model) == (
        "released",
        "dense",
        "m",
    )
    assert (released.before_bytes, released.peak_bytes, released.after_bytes) == (
        GIB,
        6 * GIB,
        GIB,
    )
    assert lease.event is not None
    assert lease.event.peak_bytes == {CARD: 6 * GIB}
    assert lease.event.acquired_at < lease.event.released_at
    assert lease.event.returned


def test_what_is_held_already_is_taken_off_what_a_worker_may_take(
    tmp_path: Path,
) -> None:
    probe = FakeDeviceProbe(total_bytes=15 * GIB)
    with probe.charged(CARD, 2 * GIB):
        ours = leases(tmp_path, probe)
        with ours.hold("m", [CARD], stage="dense", emit=silent) as lease:
            assert lease.room_bytes == 10 * GIB
            lease.sample(CARD, 9 * GIB)
            assert lease.peak_bytes == {CARD: 11 * GIB}
            with pytest.raises(MemoryCapExceeded):
                lease.sample(CARD, 11 * GIB)
    small = FakeDeviceProbe(total_bytes=8 * GIB)
    with leases(tmp_path, small).hold("m", [CARD], stage="dense", emit=silent) as held:
        assert held.room_bytes == 8 * GIB


def test_a_peak_over_the_cap_ends_the_loan_with_figures_and_cure(
    tmp_path: Path,
) -> None:
    probe, heard = FakeDeviceProbe(), RecordingListener()
    held: list[Lease] = []
    with pytest.raises(MemoryCapExceeded) as excess:
        over_the_cap(leases(tmp_path, probe, cap_bytes=GIB), probe, heard, held)
    assert "big took 1,073,741,825 bytes (1.00 GiB) on cuda:0: 1 above the cap" in str(
        excess.value
    )
    assert "--gpu-memory-cap" in str(excess.value)
    assert held[0].event is not None
    assert held[0].event.peak_bytes == {CARD: GIB + 1}
    assert [event.action for event in heard if isinstance(event, LeaseChanged)] == [
        "acquired",
        "released",
    ]
    with leases(tmp_path, probe).hold("next", [CARD], stage="dense", emit=silent):
        pass


def over_the_cap(
    ours: Leases, probe: FakeDeviceProbe, heard: RecordingListener, held: list[Lease]
) -> None:
    """Take one byte more than a cap of 1 GiB while a card is held."""
    with ours.hold("big", [CARD], stage="dense", emit=heard) as lease:
        held.append(lease)
        with probe.charged(CARD, GIB + 1):
            lease.sample(CARD)


def test_exactly_the_cap_is_allowed(tmp_path: Path) -> None:
    probe = FakeDeviceProbe()
    ours = leases(tmp_path, probe, cap_bytes=GIB)
    with (
        ours.hold("m", [CARD], stage="dense", emit=silent) as lease,
        probe.charged(CARD, GIB),
    ):
        lease.sample(CARD)


def test_a_card_that_is_full_of_our_own_is_refused_before_work(tmp_path: Path) -> None:
    probe = FakeDeviceProbe()
    with (
        probe.charged(CARD, 2 * GIB),
        pytest.raises(MemoryCapExceeded),
        leases(tmp_path, probe, cap_bytes=GIB).hold(
            "m", [CARD], stage="dense", emit=silent
        ),
    ):
        pytest.fail("there is no room")


@pytest.mark.parametrize("excess", [0, 1])
def test_memory_that_does_not_come_back_is_told(tmp_path: Path, excess: int) -> None:
    probe, heard = FakeDeviceProbe(), RecordingListener()
    kept = RELEASE_TOLERANCE_BYTES + excess
    with (
        leases(tmp_path, probe).hold("m", [CARD], stage="dense", emit=heard) as lease,
        probe.charged(CARD, GIB, kept_bytes=kept),
    ):
        lease.sample(CARD)
    assert lease.event is not None
    assert lease.event.after_bytes == {CARD: kept}
    assert lease.event.returned == (excess == 0)
    warned = [event.message for event in heard if isinstance(event, Warned)]
    assert warned == ["m left cuda:0 with 0.25 GiB more in use than before."] * excess


def test_work_in_this_process_is_held_to_the_cap_and_its_cache_is_freed(
    tmp_path: Path,
) -> None:
    probe = FakeDeviceProbe()
    ours = leases(tmp_path, probe, cap_bytes=3 * GIB)
    with ours.hold("r", [CARD], stage="rerank", emit=silent, in_process=True) as lease:
        assert probe.limits == {CARD: 3 * GIB}
        probe.cache(CARD, 2 * GIB)
    assert lease.event is not None
    assert lease.event.peak_bytes == {CARD: 2 * GIB}
    assert lease.event.after_bytes == {CARD: 0}


def test_what_this_process_held_for_a_moment_is_its_peak(tmp_path: Path) -> None:
    probe = FakeDeviceProbe()
    ours = leases(tmp_path, probe)
    with ours.hold("r", [CARD], stage="rerank", emit=silent, in_process=True) as lease:
        probe.cache(CARD, 2 * GIB)
        probe.free(CARD)
    assert lease.peak_bytes == {CARD: 2 * GIB}


class SlowProbe(FakeDeviceProbe):
    """As a driver: what was given back is counted for a few more readings."""

    late = 0

    def used_bytes(self, device: str) -> int:
        self.late -= 1
        return super().used_bytes(device) + (GIB if self.late > 0 else 0)


def test_memory_that_comes_back_after_a_moment_is_no_leak(tmp_path: Path) -> None:
    probe, heard = SlowProbe(), RecordingListener()
    with leases(tmp_path, probe).hold("m", [CARD], stage="dense", emit=heard) as lease:
        probe.late = 5
    assert lease.event is not None
    assert lease.event.returned
    assert not [event for event in heard if isinstance(event, Warned)]


class NotingProbe(FakeDeviceProbe):
    """Notes the cards in the order in which they are about to be locked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def describe(self, device: str) -> str:
        self.asked.append(device)
        return super().describe(device)


@pytest.mark.parametrize("cards", [["cuda:0", "cuda:1"], ["cuda:1", "cuda:0"]])
def test_all_processes_take_cards_in_one_order(
    tmp_path: Path, cards: list[str]
) -> None:
    probe = NotingProbe()
    with leases(tmp_path, probe).hold("m", cards, stage="dense", emit=silent):
        assert probe.asked == ["cuda:0", "cuda:1"]


def test_a_failure_inside_is_not_hidden_by_the_check_at_the_end(
    tmp_path: Path,
) -> None:
    probe = FakeDeviceProbe()
    with (
        pytest.raises(DeviceBusy, match="the first failure"),
        leases(tmp_path, probe, cap_bytes=1).hold(
            "m", [CARD], stage="dense", emit=silent
        ),
        probe.charged(CARD, GIB),
    ):
        raise DeviceBusy("the first failure")


@given(
    cap=st.integers(1, 2**40),
    context=st.integers(0, 2**33),
    margin=st.integers(0, 2**33),
)
def test_allocator_context_and_margin_are_the_cap(
    cap: int, context: int, margin: int
) -> None:
    if cap <= context + margin:
        with pytest.raises(MemoryCapExceeded, match="leaves no room"):
            allocator_limit(cap, context, margin)
        return
    assert allocator_limit(cap, context, margin) + context + margin == cap


def test_all_processes_of_a_user_share_one_folder_of_locks() -> None:
    assert lock_folder() == lock_folder()
    assert lock_folder().is_absolute()
