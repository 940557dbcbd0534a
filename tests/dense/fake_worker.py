"""A worker process with a hashing encoder; its device's name says how it fails.

One on the device `waits` begins when another one is lost; `holds-its-first` answers its
first two batches at once, and `cpu` is asked for one at a time.

`python fake_worker.py ROOT`, then the protocol of `workers.process`.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

sys.path.insert(0, sys.argv[1])

from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.testing import HashingEncoder
from processor.ultimate_embedder.workers.batch_encoder import BatchEncoder
from processor.ultimate_embedder.workers.jobs import (
    BatchRequest,
    EncodeJob,
    Failure,
    Ready,
    answer_to_line,
)


def answer(line: bytes) -> None:
    os.write(sys.stdout.fileno(), line)


def note_the_end(job: EncodeJob) -> None:
    (job.vectors.parent / "a-worker-is-lost").touch()


def wait_for_an_end(job: EncodeJob) -> None:
    while not (job.vectors.parent / "a-worker-is-lost").exists():
        time.sleep(0.01)


def die(job: EncodeJob) -> None:
    note_the_end(job)
    os.kill(os.getpid(), signal.SIGKILL)


def spoil(job: EncodeJob, request: BatchRequest) -> None:
    """Leave half of something wrong in the batch's rows, as a write cut short may."""
    with np.load(job.plan) as plan:
        first, end = plan["bounds"][request.batch : request.batch + 2]
        rows = plan["rows"][first:end]
    start = np.load(job.vectors, mmap_mode="r").offset
    width = job.model.vector_dim * 4
    with job.vectors.open("r+b") as stream:
        for row in rows:
            stream.seek(start + int(row) * width)
            stream.write(b"\x7f" * (width // 2))


class SmallDevice(HashingEncoder):
    """Has room for no text; calls itself by a GPU's name."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.device = "cuda:1"

    def encode(self, ids):  # type: ignore[no-untyped-def]
        raise DeviceOutOfMemory("Full.")


def main() -> None:
    job = EncodeJob.from_line(sys.stdin.buffer.readline())
    if job.device == "dies-starting":
        die(job)
    small = job.device.startswith("no-room")
    batches = BatchEncoder(
        job, (SmallDevice if small else HashingEncoder)(job.model.vector_dim)
    )
    answer(answer_to_line(Ready()))
    if job.device == "dies-idle":
        die(job)
    held = b""
    for number, line in enumerate(sys.stdin.buffer):
        if job.device == "waits":
            wait_for_an_end(job)
        request = BatchRequest.from_line(line)
        if job.device == "dies-mid-row" and number == 1:
            spoil(job, request)
            die(job)
        try:
            done = answer_to_line(batches.run(request))
        except DeviceOutOfMemory as error:
            note_the_end(job)
            answer(
                answer_to_line(
                    Failure(
                        kind=type(error).__name__,
                        message=error.message,
                        cure=error.cure,
                        row=error.row,
                    )
                )
            )
            return
        if job.device == "dies-mid-answer" and number == 1:
            answer(done[: len(done) // 2])
            die(job)
        if job.device == "holds-its-first" and number == 0:
            held = done
            continue
        answer(held + done)
        held = b""


main()
