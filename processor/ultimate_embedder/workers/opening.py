"""Executors for a run: a worker process for each device, or one encoder in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace

from ..config import KaggleGPUConfig
from ..devices import resolve_devices
from ..encoders.protocols import AttentionEncoder
from .jobs import EncodeJob
from .pool import BatchExecutor, InProcessExecutor, WorkerPool

OpenEncoder = Callable[[EncodeJob], AbstractContextManager[AttentionEncoder]]


def worker_processes(
    gpu: KaggleGPUConfig,
) -> Callable[[EncodeJob, int], AbstractContextManager[BatchExecutor]]:
    """Return what opens a pool over the devices of `gpu`, not larger than the work.

    Each worker is held to the job's own `memory_cap_bytes`.
    """

    def open_pool(
        job: EncodeJob, batches: int
    ) -> AbstractContextManager[BatchExecutor]:
        on_cpu = job.device == "cpu"  # as graphs are, whatever the run's devices
        devices = resolve_devices(replace(gpu, backend="cpu") if on_cpu else gpu)
        devices = devices[: max(1, batches)]
        return WorkerPool([replace(job, device=device) for device in devices])

    return open_pool


def in_process(
    open_encoder: OpenEncoder,
) -> Callable[[EncodeJob, int], AbstractContextManager[BatchExecutor]]:
    """Return what does a job with an encoder of this process: for fakes, and tests."""

    @contextmanager
    def open_here(job: EncodeJob, _batches: int) -> Iterator[BatchExecutor]:
        with (
            open_encoder(job) as encoder,
            closing(InProcessExecutor(job, encoder)) as executor,
        ):
            yield executor

    return open_here
