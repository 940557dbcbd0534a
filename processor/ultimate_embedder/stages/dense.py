"""The dense stage: one model over one collection, batch by batch of a fixed plan.

It asks an executor for the batches that the ledger does not have, and marks each once
it is on disk. Then the windows of long texts are pooled. The vectors of rows with equal
text are computed once and copied.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from ..errors import DeviceOutOfMemory
from ..hardware import this_machine
from ..intake.pieces import Pieces
from ..intake.token_table import TokenTable
from ..ledger import BatchRecord, Ledger
from ..planning import BatchPlan
from ..records import Int64Array
from ..telemetry.events import (
    BatchFinished,
    Emit,
    MemoryRetried,
    StageFinished,
    StageStarted,
)
from ..workers.batch_encoder import create_attention, create_vectors, save_plan
from ..workers.jobs import BatchReply, BatchRequest, EncodeJob, Output
from ..workers.pool import BatchExecutor
from .dense_records import DenseBlock, DenseTask, TokenAttention
from .text_rows import copy_to_equal_rows, pool_long_rows

OpenExecutor = Callable[[EncodeJob, int], AbstractContextManager[BatchExecutor]]
"""Makes an executor for a job of so many batches."""

_FLOAT32_BYTES = 4
_LIBRARIES = ("torch", "transformers")
_BYTES_VERSION = 1  # raise it when the same settings come to give other bytes


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
        work = _Work(tokens, pieces, plan, first)
        job = self._prepare(task, work)
        requests = self._missing(task, plan)
        texts = work.texts()
        self._emit(
            StageStarted(
                stage="dense",
                collection=task.collection,
                model=task.model.name,
                total=texts,
                done_before=texts - sum(work.texts(one.batch) for one in requests),
            )
        )
        replies = self._execute(task, job, requests, work)
        if "dense" in task.outputs:
            pool_long_rows(job, pieces)
            copy_to_equal_rows(job.vectors, first)
        block = self._block(task, job, work, replies, started)
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
            )
        )
        return block

    def _prepare(self, task: DenseTask, work: _Work) -> EncodeJob:
        """Make the pass's folder; drop what an earlier run with other settings left."""
        folder = self._work_dir / f"dense-{task.model.name}"
        folder.mkdir(parents=True, exist_ok=True)
        width, windows = task.model.vector_dim, work.pieces.windows
        vectors, of_windows = folder / "vectors.npy", folder / "windows.npy"
        attention = folder / "attention.f32"
        figures: dict[Output, dict[Path, int]] = {
            "dense": {vectors: len(work.tokens) * width, of_windows: windows * width},
            "attention": {attention: int(work.tokens.offsets[-1])},
        }
        for output, files in figures.items():
            name = _pass_name(task, output)
            self._ledger.open_pass(name, _fingerprint(task, work, output))
            whole = all(_holds(path, count) for path, count in files.items())
            # Without a finished batch the files may be another pass's.
            if whole and self._ledger.finished(name):
                continue
            self._ledger.start_over(name)
            for path in files:
                path.unlink(missing_ok=True)
        if not vectors.is_file():
            create_vectors(vectors, len(work.tokens), width)
        if windows and not of_windows.is_file():
            create_vectors(of_windows, windows, width)
        if "attention" in task.outputs and not attention.is_file():
            create_attention(attention, int(work.tokens.offsets[-1]))
        save_plan(folder / "plan.npz", work.plan)
        work.pieces.save(folder / "pieces.npz")
        return EncodeJob(
            model=task.model,
            location=task.location.path,
            tokens=task.tokens_dir,
            plan=folder / "plan.npz",
            pieces=folder / "pieces.npz",
            vectors=vectors,
            windows=of_windows if windows else None,
            attention=attention if "attention" in task.outputs else None,
            device=task.device,
            dtype=task.dtype,
            budget_tokens=task.budget_tokens,
        )

    def _missing(self, task: DenseTask, plan: BatchPlan) -> list[BatchRequest]:
        """Return a request for each batch that lacks an output, in plan order."""
        done = {
            output: {
                record.batch
                for record in self._ledger.finished(_pass_name(task, output))
            }
            for output in task.outputs
        }
        wanted = (
            BatchRequest(
                batch, tuple(out for out in task.outputs if batch not in done[out])
            )
            for batch in range(len(plan))
        )
        return [request for request in wanted if request.outputs]

    def _execute(
        self,
        task: DenseTask,
        job: EncodeJob,
        requests: list[BatchRequest],
        work: _Work,
    ) -> list[BatchReply]:
        if not requests:
            return []
        replies = []
        try:
            with self._open_executor(job, len(requests)) as executor:
                for reply in executor.run(requests):
                    self._mark(task, reply, work)
                    replies.append(reply)
        except DeviceOutOfMemory as error:
            if error.row is None:
                raise
            raise DeviceOutOfMemory(
                f"{error.message} It belongs to chunk {task.chunk_id(error.row)}.",
                cure=error.cure,
                row=error.row,
            ) from error
        return replies

    def _mark(self, task: DenseTask, reply: BatchReply, work: _Work) -> None:
        for output in reply.outputs:
            self._ledger.mark(
                _pass_name(task, output),
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
                    model=task.model.name,
                    device=reply.device,
                    budget_tokens=reply.budget_tokens or 0,
                )
            )
        self._emit(
            BatchFinished(
                stage="dense",
                collection=task.collection,
                model=task.model.name,
                items=work.texts(reply.batch),
                seconds=reply.seconds,
                tokens=reply.tokens,
                padded_tokens=reply.padded_tokens,
                truncated_tokens=work.truncated_tokens(reply.batch),
                device=reply.device,
            )
        )

    def _block(
        self,
        task: DenseTask,
        job: EncodeJob,
        work: _Work,
        replies: list[BatchReply],
        started: float,
    ) -> DenseBlock:
        tokens, plan = work.tokens, work.plan
        split = {rows for reply in replies for rows in reply.pass_rows}
        peaks = [reply.device_peak_bytes or 0 for reply in replies]
        records = self._ledger.finished(_pass_name(task, task.outputs[0]))
        vectors = np.load(job.vectors, mmap_mode="r")
        attention = None
        if job.attention is not None:
            weights = np.memmap(job.attention, np.float32, mode="r")
            attention = TokenAttention(tokens, weights, work.first)
        return DenseBlock(
            model=task.model,
            location=task.location,
            vectors=vectors if "dense" in task.outputs else None,
            attention=attention,
            attention_fingerprint=_fingerprint(task, work, "attention"),
            dtype=task.dtype,
            devices=tuple(sorted({reply.device for reply in replies} or {task.device})),
            chunks=len(tokens),
            texts=work.texts(),
            tokens=int(tokens.offsets[-1]),
            padding_ratio=sum(record.padded_tokens for record in records)
            / max(1, sum(record.tokens for record in records)),
            truncated_chunks=int(np.count_nonzero(tokens.truncated)),
            truncated_tokens=int(tokens.truncated.sum()),
            windows=work.pieces.windows,
            chunks_in_windows=work.chunks_in_windows,
            batch_sizes=tuple(sorted({record.rows for record in records} | split)),
            batches=len(plan),
            reused_batches=len(plan) - len(replies),
            compute_seconds=sum(record.seconds for record in records),
            wall_seconds=time.perf_counter() - started,
            computed_chunks=sum(work.texts(reply.batch) for reply in replies),
            computed_tokens=sum(reply.tokens for reply in replies),
            peak_rss_bytes=max((reply.peak_bytes for reply in replies), default=0),
            peak_bytes=max(peaks, default=0) or None,
            oom_retries=sum(reply.oom_retries for reply in replies),
        )


@dataclass(frozen=True, slots=True)
class _Work:
    """What a pass goes over; `first` is each row's first row of the same text."""

    tokens: TokenTable
    pieces: Pieces
    plan: BatchPlan
    first: Int64Array

    def texts(self, batch: int | None = None) -> int:
        """Return how many texts begin in a batch, or in all of them."""
        numbers = self.plan.rows if batch is None else self.plan.batch(batch)
        return self.pieces.texts(numbers, self.tokens.frame)

    def truncated_tokens(self, batch: int) -> int:
        """Return how many tokens the texts of a batch lost: none in windows."""
        numbers = self.plan.batch(batch)
        rows = numbers[numbers < self.pieces.rows]
        kept = self.tokens.lengths_of(rows)
        return int((self.tokens.full_lengths[rows] - kept).sum())

    @property
    def chunks_in_windows(self) -> int:
        """Rows longer than the window, those of equal text each counted."""
        return int(np.isin(self.first, self.pieces.long_rows).sum())


def _holds(path: Path, figures: int) -> bool:
    """Say whether a file is there and long enough, or not needed."""
    least = figures * _FLOAT32_BYTES
    return not least or (path.is_file() and path.stat().st_size >= least)


def _pass_name(task: DenseTask, output: Output) -> str:
    return f"{output}:{task.model.name}"


def _fingerprint(task: DenseTask, work: _Work, output: Output) -> str:
    """Hash everything that the bytes of an output depend on.

    Another version of a library, or another processor, has other kernels.
    """
    facts = {
        "version": _BYTES_VERSION,
        "output": output,
        "tokens": task.fingerprint,
        "revision": task.location.revision,
        "dtype": task.dtype,
        "device": task.device.split(":")[0],
        "pooling": task.model.pooling,
        "dimension": task.model.vector_dim,
        "plan": work.plan.digest,
        "windows": work.pieces.digest,
        "libraries": [importlib.metadata.version(name) for name in _LIBRARIES],
        "instruction_sets": this_machine().instruction_sets,
    }
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()
