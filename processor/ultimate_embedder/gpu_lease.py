"""A GPU is lent to one model at a time, and held to a cap of memory.

The loan is exclusive between processes by `flock` on a file for each card, so it ends
with its owner however that ends. The cap counts what this user's run holds on the card,
the CUDA context included; memory of strangers is neither counted nor fenced off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from .config import DEFAULT_GPU_MEMORY_CAP_BYTES, GIB, GPU_MARGIN_BYTES
from .device_lock import device_lock, lock_folder
from .errors import MemoryCapExceeded
from .telemetry.events import Emit, LeaseChanged, Stage, Warned

MIB = 2**20
MARGIN_BYTES = GPU_MARGIN_BYTES
RELEASE_TOLERANCE_BYTES = 256 * MIB
"""What may stay on a card after a loan and counts as given back: the same growth."""

_SECONDS_TO_SETTLE = 2.0
_SECONDS_BETWEEN_READINGS = 0.05


class DeviceProbe(Protocol):
    """Reads a device, and holds this process to a cap on it. Figures are bytes."""

    def identity(self, device: str) -> str:
        """Return what names the card for every process: its UUID where known."""

    def describe(self, device: str) -> str:
        """Return the card's name, for people."""

    def total_bytes(self, device: str) -> int:
        """Return the size of its memory."""

    def used_bytes(self, device: str) -> int:
        """Return what this process and those it started hold now, contexts included."""

    def enforce_cap(self, device: str, cap_bytes: int) -> int:
        """Limit this process's allocator; return the limit. Peaks start anew."""

    def peak_bytes(self, device: str) -> int:
        """Return the most this process held since `enforce_cap`, context included."""

    def free(self, device: str) -> None:
        """Give back what this process's allocator keeps without need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEvent:
    """One loan, as the manifest states it. Bytes are by device.

    `returned` tells whether the memory came back when the loan ended.
    """

    stage: Stage
    model: str
    devices: tuple[str, ...]
    acquired_at: str
    released_at: str
    cap_bytes: int
    before_bytes: dict[str, int]
    peak_bytes: dict[str, int]
    after_bytes: dict[str, int]
    returned: bool


def allocator_limit(
    cap_bytes: int, context_bytes: int, margin_bytes: int = MARGIN_BYTES
) -> int:
    """Return what an allocator may hold: the cap minus context and margin.

    Raises:
        MemoryCapExceeded: the cap leaves no room beside the context.
    """
    limit = cap_bytes - context_bytes - margin_bytes
    if limit <= 0:
        raise MemoryCapExceeded(
            f"A cap of {_gib(cap_bytes)} leaves no room for a model: the CUDA context "
            f"takes {_gib(context_bytes)} and {_gib(margin_bytes)} are kept free.",
            cure="Raise --gpu-memory-cap, or choose --device cpu.",
        )
    return limit


def is_leased(device: str) -> bool:
    """Say whether a device is one to lease: a GPU, not the CPU."""
    return device != "cpu"


class Lease:
    """The devices that a model holds. `event` is there when the loan has ended."""

    def __init__(
        self,
        model: str,
        devices: Sequence[str],
        stage: Stage,
        cap_bytes: int,
        probe: DeviceProbe,
    ) -> None:
        self.model = model
        self.devices = tuple(devices)
        self.event: LeaseEvent | None = None
        self._stage = stage
        self._cap_bytes = cap_bytes
        self._probe = probe
        self._acquired_at = ""
        self._before = {device: probe.used_bytes(device) for device in devices}
        self._peak = dict(self._before)

    @property
    def room_bytes(self) -> int:
        """What a process on each device may take: the cap minus what is held there."""
        return min(
            min(self._cap_bytes, self._probe.total_bytes(device)) - before
            for device, before in self._before.items()
        )

    @property
    def peak_bytes(self) -> dict[str, int]:
        """The most seen on each device."""
        return dict(self._peak)

    def own_peak_bytes(self, device: str) -> int:
        """Return the most that this process held on a device since the loan began."""
        return self._probe.peak_bytes(device)

    def free(self, device: str) -> None:
        """Give back what this process's allocator keeps of a device without need."""
        self._probe.free(device)

    def note_peak(self, device: str, used_bytes: int) -> None:
        """Note how much this user's run held on a device, all processes together.

        Raises:
            MemoryCapExceeded: it is more than the cap.
        """
        self._peak[device] = max(self._peak[device], used_bytes)
        if used_bytes > self._cap_bytes:
            raise MemoryCapExceeded(
                f"{self.model} took {used_bytes:,} bytes ({_gib(used_bytes)}) on "
                f"{device}: {used_bytes - self._cap_bytes:,} above the cap of "
                f"{_gib(self._cap_bytes)}.",
                cure="Raise --gpu-memory-cap or choose a smaller model; the same "
                "command resumes.",
            )

    def sample(self, device: str, worker_bytes: int | None = None) -> None:
        """Note what the probe reads; `worker_bytes` is what a worker says of itself.

        Raises:
            MemoryCapExceeded: one of the figures is more than the cap.
        """
        if device not in self._before:
            return
        if worker_bytes is not None:
            self.note_peak(device, self._before[device] + worker_bytes)
        self.note_peak(device, self._probe.used_bytes(device))

    def begin(self, at: datetime, emit: Emit) -> None:
        """Tell that the devices are held.

        Raises:
            MemoryCapExceeded: more than the cap is in use already.
        """
        self._acquired_at = at.isoformat()
        for device, before in self._before.items():
            emit(self._changed("acquired", device, before))
        for device, before in self._before.items():
            self.note_peak(device, before)

    def end(self, now: Callable[[], datetime], emit: Emit) -> None:
        """Check that the memory is back, and tell that the devices are free."""
        after = self._settled()
        kept = {
            device: used - self._before[device]
            for device, used in after.items()
            if used > self._before[device] + RELEASE_TOLERANCE_BYTES
        }
        self.event = LeaseEvent(
            stage=self._stage,
            model=self.model,
            devices=self.devices,
            acquired_at=self._acquired_at,
            released_at=now().isoformat(),
            cap_bytes=self._cap_bytes,
            before_bytes=dict(self._before),
            peak_bytes=dict(self._peak),
            after_bytes=after,
            returned=not kept,
        )
        for device, used in after.items():
            emit(self._changed("released", device, used))
        for device, excess in kept.items():
            emit(
                Warned(
                    message=f"{self.model} left {device} with {_gib(excess)} more in "
                    "use than before."
                )
            )

    def _settled(self) -> dict[str, int]:
        """Read the devices; a driver takes a moment to count what was given back."""
        deadline = time.monotonic() + _SECONDS_TO_SETTLE
        while True:
            for device in self.devices:
                self._probe.free(device)
            after = {device: self._probe.used_bytes(device) for device in self.devices}
            back = all(
                used <= self._before[device] + RELEASE_TOLERANCE_BYTES
                for device, used in after.items()
            )
            if back or time.monotonic() >= deadline:
                return after
            time.sleep(_SECONDS_BETWEEN_READINGS)

    def _changed(
        self, action: Literal["acquired", "released"], device: str, used: int
    ) -> LeaseChanged:
        return LeaseChanged(
            stage=self._stage,
            model=self.model,
            device=device,
            action=action,
            cap_bytes=self._cap_bytes,
            before_bytes=self._before[device],
            peak_bytes=self._peak[device],
            after_bytes=used,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """How a run takes devices: by which probe, under which cap, waiting how long."""

    probe: DeviceProbe
    cap_bytes: int = DEFAULT_GPU_MEMORY_CAP_BYTES
    lock_dir: Path = field(default_factory=lock_folder)
    wait_seconds: float = 0.0

    @contextmanager
    def hold(
        self,
        model: str,
        devices: Sequence[str],
        *,
        stage: Stage,
        emit: Emit,
        in_process: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Iterator[Lease]:
        """Lend GPUs to a model for the length of the block.

        `in_process`: the model runs in this process, not in workers, and this process
        is held to the cap.

        Raises:
            DeviceBusy: another lease has one of the devices.
            MemoryCapExceeded: more than the cap was measured.
        """
        names = {self.probe.identity(device): device for device in devices}
        with ExitStack() as locks:
            deadline = time.monotonic() + self.wait_seconds
            # All processes take cards in one order: no two wait for each other.
            for identity, device in sorted(names.items()):
                locks.enter_context(
                    device_lock(
                        self.lock_dir,
                        identity,
                        shown=f"{device} ({self.probe.describe(device)})",
                        model=model,
                        deadline=deadline,
                        emit=emit,
                    )
                )
            if in_process:
                for device in names.values():
                    self.probe.enforce_cap(device, self.cap_bytes)
            held = Lease(model, list(names.values()), stage, self.cap_bytes, self.probe)
            try:
                held.begin(now(), emit)
                yield held
                for device in held.devices:
                    own = self.probe.peak_bytes(device) if in_process else None
                    held.note_peak(device, own or 0)
                    held.sample(device)
            finally:
                held.end(now, emit)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
