"""The loans of one collection: every pass on a GPU holds it, and is remembered.

Each dense model in turn takes all the devices it uses; sparse and rerank take one. On
the CPU nothing is lent and nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial

from ..encoders.passes import DeviceUse
from ..export import manifest_sections as sections
from ..gpu_lease import Lease, LeaseEvent, Leases, is_leased
from ..hardware import peak_memory_bytes
from ..memory_room import PlannedRoom
from ..stages.dense import OpenExecutor
from ..telemetry.events import Emit, Stage
from ..workers.jobs import BatchReply, BatchRequest, EncodeJob
from ..workers.pool import BatchExecutor


class _Watched:
    """An executor whose device is read after each batch."""

    def __init__(self, executor: BatchExecutor, lease: Lease) -> None:
        self._executor = executor
        self._lease = lease

    def run(self, requests: Sequence[BatchRequest]) -> Iterator[BatchReply]:
        """Yield the executor's replies.

        Raises:
            MemoryCapExceeded: a device holds more than the cap.
        """
        for reply in self._executor.run(requests):
            yield reply  # first, so that what is on disk is marked as done
            self._lease.sample(reply.device, reply.device_peak_bytes)


@dataclass(slots=True)
class DeviceLoans:
    """Takes devices for the stages of one collection.

    `events` are the loans that ended, `cards` the names of the devices lent.
    """

    leases: Leases | None
    emit: Emit
    now: Callable[[], datetime]
    events: list[LeaseEvent] = field(default_factory=list)
    cards: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def hold(
        self,
        model: str,
        devices: Sequence[str],
        stage: Stage,
        *,
        in_process: bool,
    ) -> Iterator[Lease | None]:
        """Hold the GPUs among `devices`; None where there is none.

        Raises:
            DeviceBusy: another run holds one.
            MemoryCapExceeded: more than the cap was measured.
        """
        cards = [device for device in dict.fromkeys(devices) if is_leased(device)]
        if not cards or self.leases is None:
            yield None
            return
        lease = None
        try:
            with self.leases.hold(
                model,
                cards,
                stage=stage,
                emit=self.emit,
                in_process=in_process,
                now=self.now,
            ) as lease:
                self.cards |= {one: self.leases.probe.describe(one) for one in cards}
                yield lease
        finally:
            if lease is not None and lease.event is not None:
                self.events.append(lease.event)

    def use(
        self, lease: Lease | None, model: str, device: str, room: PlannedRoom | None
    ) -> DeviceUse:
        """Return what a model of this process is told of the device that it runs on."""
        if not is_leased(device):
            return DeviceUse(model=model, device=device, used_bytes=peak_memory_bytes)
        if lease is None:
            return DeviceUse(model=model, device=device)
        return DeviceUse(
            model=model,
            device=device,
            release=partial(lease.free, device),
            used_bytes=partial(lease.own_peak_bytes, device),
            cap_bytes=self.leases.cap_bytes if self.leases else None,
            room=room,
        )

    def executor(
        self, open_executor: OpenExecutor, devices: Sequence[str]
    ) -> OpenExecutor:
        """Return what opens executors that hold their devices."""

        @contextmanager
        def open_leased(job: EncodeJob, batches: int) -> Iterator[BatchExecutor]:
            used = tuple(devices)[: max(1, batches)]
            with self.hold(job.model.name, used, "dense", in_process=False) as lease:
                if lease is not None:
                    job = replace(job, memory_cap_bytes=lease.room_bytes)
                with open_executor(job, batches) as executor:
                    yield executor if lease is None else _Watched(executor, lease)

        return open_leased

    def sections(
        self, stage: Stage, model: str | None = None
    ) -> tuple[sections.LeaseEvent, ...]:
        """Return the loans of a stage, to one model or to all, for the manifest."""
        return tuple(
            sections.LeaseEvent(**asdict(event))
            for event in self.events
            if event.stage == stage and model in (None, event.model)
        )


def highest(events: Sequence[sections.LeaseEvent]) -> int | None:
    """Return the most bytes on one device in any of the loans; None without one."""
    return max(
        (peak for event in events for peak in event.peak_bytes.values()), default=None
    )
