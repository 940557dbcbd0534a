"""A worker computes a batch while the one before it is written."""

from __future__ import annotations

import errno
import io
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from processor.ultimate_embedder.encoders import dense
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.workers import process
from processor.ultimate_embedder.workers.batch_encoder import Computed
from processor.ultimate_embedder.workers.jobs import (
    Answer,
    BatchReply,
    BatchRequest,
    EncodeJob,
    Failure,
    Ready,
    answer_from_line,
)

SOON = 30.0  # seconds: only a failure waits for so long
REPLY = BatchReply(
    batch=0,
    outputs=("dense",),
    rows=1,
    tokens=1,
    padded_tokens=1,
    seconds=0.0,
    device="cuda:0",
    peak_bytes=0,
)


class Batches:
    """Computes and writes nothing, as slowly and as badly as a test asks."""

    def __init__(self) -> None:
        self.computed = [threading.Event() for _ in range(3)]
        self.full = False

    def compute(self, request: BatchRequest) -> Computed:
        self.computed[request.batch].set()
        return Computed(replace(REPLY, batch=request.batch), None, None)

    def write(self, computed: Computed) -> BatchReply:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "vectors.npy")
        following = computed.reply.batch + 1
        if following < len(self.computed):
            assert self.computed[following].wait(SOON)
        return computed.reply


def requests(count: int) -> bytes:
    return b"".join(BatchRequest(i, ("dense",)).to_line() for i in range(count))


def answered(answers: BinaryIO) -> list[Answer]:
    return [answer_from_line(line) for line in answers]


def test_the_next_batch_is_computed_while_one_is_written() -> None:
    answers = io.BytesIO()
    process._do_all(io.BytesIO(requests(3)), Batches(), answers)  # type: ignore[arg-type]
    answers.seek(0)
    replies = answered(answers)
    assert [type(one) for one in replies] == [BatchReply] * 3
    assert [one.batch for one in replies if isinstance(one, BatchReply)] == [0, 1, 2]


def test_a_write_that_fails_is_told_at_once_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = Batches()
    batches.full = True
    monkeypatch.setattr(
        process, "_serve", lambda asked, told: process._do_all(asked, batches, told)
    )
    (asked, ask), (told, tell) = os.pipe(), os.pipe()
    with (
        os.fdopen(asked, "rb") as asked_of,
        os.fdopen(told, "rb") as heard,
        os.fdopen(tell, "wb", buffering=0) as telling,
    ):
        worker = threading.Thread(
            target=process._serve_or_tell, args=(asked_of, telling)
        )
        worker.start()
        os.write(ask, requests(1))  # and no further one: its input stays open
        failure = answer_from_line(heard.readline())
        os.close(ask)
        worker.join(SOON)
        telling.close()
        assert heard.read() == b""
    assert isinstance(failure, Failure)
    assert failure.kind == "OutputError"
    assert "vectors.npy: No space left on device" in failure.message


def test_a_card_is_limited_anew_once_a_first_pass_has_loaded_its_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context grows with them, and the cap counts it."""
    done: list[object] = []
    memory = process._DeviceMemory(measure_again=lambda: done.append("measured"))
    monkeypatch.setattr(process, "_device_memory", lambda _: memory)
    monkeypatch.setattr(
        process, "BatchEncoder", lambda *_, **__: done.append("calibrated")
    )
    monkeypatch.setattr(process, "_answer", lambda _, what: done.append(type(what)))
    monkeypatch.setattr(process, "_do_all", lambda *_: done.append("batches"))
    monkeypatch.setattr(dense, "open_dense", lambda *_, **__: None)
    job = EncodeJob(
        model=dense_model("all-miniLM-l6"),
        location=tmp_path,
        tokens=tmp_path,
        plan=tmp_path,
        pieces=tmp_path,
        vectors=tmp_path,
    )
    process._serve(io.BytesIO(job.to_line()), io.BytesIO())
    assert done == ["calibrated", "measured", Ready, "batches"]
