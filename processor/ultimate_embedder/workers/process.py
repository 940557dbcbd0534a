"""The worker process: reads a job, then requests, from standard input; answers.

While it computes a batch it writes the one before, where the parent gives two at once.
Its standard output carries answers only; whatever a library prints goes to standard
error. It ends when its input ends; on Linux also, at once, with the thread that started
it, so that nothing computes on after a run that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from ..encoders.protocols import DenseEncoder
from ..errors import DeviceOutOfMemory, EmbedderError, OutputError
from ..memory_plan import PassProbe
from .batch_encoder import BatchEncoder, Computed
from .jobs import Answer, BatchRequest, EncodeJob, Failure, Ready, answer_to_line

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Serve one job until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    die_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError):  # the run is gone: no one to tell
        _serve_or_tell(sys.stdin.buffer, answers)


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends.

    One whose parent is gone before this call has no request and ends by itself.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Told(Exception):
    """The parent knows already why this worker ends."""


def _serve_or_tell(requests: BinaryIO, answers: BinaryIO) -> None:
    try:
        _serve(requests, answers)
    except _Told:
        return
    except BrokenPipeError:
        raise
    except (EmbedderError, OSError, MemoryError) as error:
        _answer(answers, _failure(error))


def _failure(error: EmbedderError | OSError | MemoryError) -> Failure:
    if isinstance(error, EmbedderError):
        return Failure(
            kind=type(error).__name__,
            message=error.message,
            cure=error.cure,
            row=error.row if isinstance(error, DeviceOutOfMemory) else None,
        )
    if isinstance(error, OSError):
        return Failure(
            kind=OutputError.__name__,
            message=f"A worker could not read or write {error.filename or 'a file'}"
            f": {error.strerror or error}.",
            cure="Make room or restore the folder, then run the same command.",
        )
    return Failure(
        kind=DeviceOutOfMemory.__name__,
        message="A worker ran out of memory.",
        cure="Use fewer workers.",
    )


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    # Heavy imports wait until a job is here: a worker that is not needed stays small.
    from ..encoders.dense import open_dense
    from ..encoders.dense_torch import one_thread

    job = EncodeJob.from_line(requests.readline())
    memory = _device_memory(job)
    with one_thread() if job.device == "cpu" else nullcontext():
        encoder = open_dense(
            job.location, job.model, device=job.device, dtype=job.dtype
        )
        batches = BatchEncoder(
            job,
            encoder,
            device_peak_bytes=memory.peak_bytes,
            release=memory.release,
            pass_probe=_pass_probe(job, encoder),
        )
        memory.measure_again()
        _answer(answers, Ready())
        _do_all(requests, batches, answers)


def _do_all(requests: BinaryIO, batches: BatchEncoder, answers: BinaryIO) -> None:
    """Compute one batch while the one before is written; answer in their order."""
    with ThreadPoolExecutor(1) as writer:
        behind: Future[None] | None = None
        for line in requests:
            computed = batches.compute(BatchRequest.from_line(line))
            if behind is not None:
                behind.result()
            behind = writer.submit(_write_and_answer, batches, computed, answers)
        if behind is not None:
            behind.result()


def _write_and_answer(
    batches: BatchEncoder, computed: Computed, answers: BinaryIO
) -> None:
    try:
        reply = batches.write(computed)
    except (OSError, MemoryError) as error:
        # Told from here: the other thread may be waiting for a request meanwhile.
        _answer(answers, _failure(error))
        raise _Told from error
    _answer(answers, reply)


@dataclass(frozen=True, slots=True)
class _DeviceMemory:
    """Reads the peak of a card, frees what is kept of it, and limits it anew.

    On a CPU there is nothing to read or to limit.
    """

    peak_bytes: Callable[[], int | None] = lambda: None
    release: Callable[[], None] = lambda: None
    measure_again: Callable[[], object] = lambda: None


def _device_memory(job: EncodeJob) -> _DeviceMemory:
    """Hold this process to the cap."""
    if job.device == "cpu":
        return _DeviceMemory()
    from ..encoders.device_probe import (
        CudaProbe,
        device_peak_bytes,
        enforce_cap,
        limit_allocator,
    )

    enforce_cap(job.device, job.memory_cap_bytes)
    return _DeviceMemory(
        partial(device_peak_bytes, job.device),
        partial(CudaProbe().free, job.device),
        partial(limit_allocator, job.device, job.memory_cap_bytes),
    )


def _pass_probe(job: EncodeJob, encoder: DenseEncoder) -> PassProbe | None:
    """Return what measures a pass; None where the device is the CPU."""
    if job.device == "cpu":
        return None
    from ..encoders.device_probe import CudaPassProbe

    return CudaPassProbe(encoder.encode, job.device)


def _answer(answers: BinaryIO, answer: Answer) -> None:
    answers.write(answer_to_line(answer))


if __name__ == "__main__":
    main()
