"""The dense stage: one model over one collection, batch by batch of a fixed plan.

It asks an executor for the batches that the ledger does not have, and marks each once
it is on disk. Then the windows of long texts are pooled. The vectors of rows with equal
text are computed once and copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeviceOutOfMemory
from ..intake.pieces import Pieces
from ..intake.token_table import TokenTable
from ..ledger import BatchRecord, Ledger
from ..memory_plan import Calibration
from ..planning import BatchPlan
from ..records import Int64Array
from ..telemetry.events import (
    BatchFinished,
    Emit,
    MemoryRetried,
    StageFinished,
    StageStarted,
    WorkRedone,
)
from ..workers.jobs import BatchReply, BatchRequest, EncodeJob
from ..workers.pool import BatchExecutor
from .dense_files import PassFiles, PassInput
from .dense_records import DenseBlock, DenseTask, TokenAttention
from .text_rows import copy_to_equal_rows, pool_long_rows

OpenExecutor = Callable[[EncodeJob, int], AbstractContextManager[BatchExecutor]]
"""Makes an executor for a job of so many batches."""


class DenseStage:
    """Makes passes in `work_dir`; an executor does the batches."""

    def __init__(
        self, work_dir: Path, ledger: Ledger, open_executor: OpenExecutor, emit: Emit
    ) -> None:
        self._work_dir = work_dir
        self._ledger = ledger
        self._open_executor = open_executor
        self._emit = emit

    def run(
        self,
        task: DenseTask,
        tokens: TokenTable,
        pieces: Pieces,
        plan: BatchPlan,
        first: Int64Array,
    ) -> DenseBlock:
        """Finish a pass: `first` is, for each row, the first row of the same text.

        `plan` is over the numbers of `pieces`.

        Raises:
            ModelError: the model cannot be loaded or gives unusable vectors.
            DeviceOutOfMemory: one text alone does not fit; the message names its chunk.
            RunStopped: the run ended early; what is marked stays done.
        """
        started = time.perf_counter()
        over = PassInput(tokens, pieces, plan, first)
        files = PassFiles(self._work_dir, self._ledger, task, over)
        job = files.prepare()
        requests = files.requests()
        begun = _Begun(task, job, files, over, {one.batch: one for one in requests})
        for one in files.redone:
            self._emit(
                WorkRedone(
                    stage="dense",
                    collection=task.collection,
                    model=task.model.name,
                    reason=one.reason,
                    damaged=one.damaged,
                )
            )
        texts = over.texts()
        missing = sum(begun.texts(one.batch) for one in requests)
        self._emit(
            StageStarted(
                stage="dense",
                collection=task.collection,
                model=task.model.name,
                total=texts,
                done_before=texts - missing,
                unit="chunks" if texts == len(tokens) else "texts",
            )
        )
        replies = self._execute(begun)
        if "dense" in task.outputs:
            pool_long_rows(job, pieces)
            copy_to_equal_rows(job.vectors, first)
        block = _block(begun, replies, time.perf_counter() - started)
        self._emit(
            StageFinished(
                stage="dense",
                collection=task.collection,
                model=task.model.name,
                items=len(tokens),
                seconds=block.wall_seconds,
                tokens=block.tokens,
                device=",".join(block.devices),
                reused=block.reused_chunks,
                repeats=block.chunks - block.texts,
            )
        )
        return block

    def _execute(self, begun: _Begun) -> list[BatchReply]:
        requests = list(begun.requests.values())
        if not requests:
            return []
        replies = []
        try:
            with self._open_executor(begun.job, len(requests)) as executor:
                for reply in executor.run(requests):
                    self._mark(begun, reply)
                    replies.append(reply)
        except DeviceOutOfMemory as error:
            if error.row is None:
                raise
            chunk = begun.task.chunk_id(error.row)
            raise DeviceOutOfMemory(
                f"{error.message} It belongs to chunk {chunk}.",
                cure=error.cure,
                row=error.row,
            ) from error
        return replies

    def _mark(self, begun: _Begun, reply: BatchReply) -> None:
        for output in reply.outputs:
            begun.files.mark(
                output,
                BatchRecord(
                    batch=reply.batch,
                    rows=reply.rows,
                    tokens=reply.tokens,
                    padded_tokens=reply.padded_tokens,
                    seconds=reply.seconds,
                ),
            )
        for _ in range(reply.oom_retries):
            self._emit(
                MemoryRetried(
                    stage="dense",
                    model=begun.task.model.name,
                    device=reply.device,
                    budget_tokens=reply.budget_tokens or 0,
                )
            )
        self._emit(
            BatchFinished(
                stage="dense",
                collection=begun.task.collection,
                model=begun.task.model.name,
                items=begun.texts(reply.batch),
                seconds=reply.seconds,
                tokens=reply.tokens,
                padded_tokens=reply.padded_tokens,
                truncated_tokens=begun.truncated_tokens(reply.batch),
                device=reply.device,
                batch_size=reply.rows,
            )
        )


@dataclass(frozen=True, slots=True)
class _Begun:
    """A pass whose files are ready; `requests` are what it lacks, by batch."""

    task: DenseTask
    job: EncodeJob
    files: PassFiles
    over: PassInput
    requests: Mapping[int, BatchRequest]

    def texts(self, batch: int) -> int:
        """Return how many texts begin in what is asked for of a batch."""
        return self.over.texts(self.files.pieces(self.requests[batch]))

    def truncated_tokens(self, batch: int) -> int:
        """Return how many tokens these texts lost."""
        return self.over.truncated_tokens(self.files.pieces(self.requests[batch]))


def _block(begun: _Begun, replies: list[BatchReply], seconds: float) -> DenseBlock:
    task, job, over = begun.task, begun.job, begun.over
    tokens, plan = over.tokens, over.plan
    split = {rows for reply in replies for rows in reply.pass_rows}
    peaks = [reply.device_peak_bytes or 0 for reply in replies]
    records = begun.files.records()
    attention = None
    if job.attention is not None:
        weights = np.asarray(np.memmap(job.attention, np.float32, mode="r"))
        attention = TokenAttention(tokens, weights, over.first)
    stored = "dense" in task.outputs
    return DenseBlock(
        model=task.model,
        location=task.location,
        vectors=np.load(job.vectors, mmap_mode="r") if stored else None,
        attention=attention,
        attention_fingerprint=begun.files.attention_fingerprint,
        dtype=task.dtype,
        devices=tuple(sorted({reply.device for reply in replies} or {task.device})),
        chunks=len(tokens),
        texts=over.texts(),
        tokens=int(tokens.offsets[-1]),
        padding_ratio=sum(record.padded_tokens for record in records)
        / max(1, sum(record.tokens for record in records)),
        truncated_chunks=int(np.count_nonzero(tokens.truncated)),
        truncated_tokens=int(tokens.truncated.sum()),
        windows=over.pieces.windows,
        chunks_in_windows=over.chunks_in_windows,
        batch_sizes=tuple(sorted({record.rows for record in records} | split)),
        batches=len(plan),
        reused_batches=len(plan) - len(replies),
        compute_seconds=sum(record.seconds for record in records),
        wall_seconds=seconds,
        computed_chunks=sum(begun.texts(reply.batch) for reply in replies),
        computed_tokens=sum(reply.tokens for reply in replies),
        peak_rss_bytes=max((reply.peak_bytes for reply in replies), default=0),
        peak_bytes=max(peaks, default=0) or None,
        oom_retries=sum(reply.oom_retries for reply in replies),
        calibration=_worst(replies),
    )


def _worst(replies: list[BatchReply]) -> Calibration | None:
    """Return the calibration of the device that needed most."""
    found = [reply.calibration for reply in replies if reply.calibration is not None]
    return max(found, key=lambda one: one.factor, default=None)
