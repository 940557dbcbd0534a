"""The dense stage: one model over one collection, batch by batch of a fixed plan.

It asks an executor for the batches that the ledger does not have, and marks each once
it is on disk. The vectors of rows with equal text are computed once and copied.
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
import numpy.typing as npt
import orjson

from ..config import ModelConfig
from ..encoders.sources import ModelLocation
from ..hardware import this_machine
from ..intake.token_table import TokenTable
from ..ledger import BatchRecord, Ledger
from ..planning import BatchPlan
from ..records import Float32Array, Int64Array, UInt32Array
from ..telemetry.events import BatchFinished, Emit, StageFinished, StageStarted
from ..workers.batch_encoder import (
    create_attention,
    create_vectors,
    save_plan,
    write_vectors,
)
from ..workers.jobs import BatchReply, BatchRequest, EncodeJob, Output
from ..workers.pool import BatchExecutor

OpenExecutor = Callable[[EncodeJob, int], AbstractContextManager[BatchExecutor]]
"""Makes an executor for a job of so many batches."""

_ROWS_A_COPY = 4096
_FLOAT32_BYTES = 4
_LIBRARIES = ("torch", "transformers")
_BYTES_VERSION = 1  # raise it when the same settings come to give other bytes


@dataclass(frozen=True, slots=True)
class TokenAttention:
    """[CLS] attention for each token of each row, memory-mapped."""

    tokens: TokenTable
    weights: Float32Array
    first_rows: Int64Array

    def row(self, row: int) -> tuple[UInt32Array, Float32Array]:
        """Return a row's token ids and their attention, both [length]."""
        first = int(self.first_rows[row])
        start, stop = self.tokens.offsets[first], self.tokens.offsets[first + 1]
        return self.tokens.row(first), self.weights[start:stop]


@dataclass(frozen=True, slots=True)
class DenseBlock:
    """What one model made of a collection, with what it cost.

    `vectors` is float32 [rows, dimension], memory-mapped, None when only attention
    was asked for. `reused_batches` were on disk from an earlier run; `computed_chunks`
    and `computed_tokens` count what this run computed: each distinct text once.
    `peak_rss_bytes` is the largest worker's memory, `peak_bytes` the device's.
    """

    model: ModelConfig
    location: ModelLocation
    vectors: Float32Array | None
    attention: TokenAttention | None
    attention_fingerprint: str
    dtype: str
    devices: tuple[str, ...]
    chunks: int
    texts: int  # distinct ones
    tokens: int
    padding_ratio: float
    truncated_chunks: int
    truncated_tokens: int
    batch_sizes: tuple[int, ...]
    batches: int
    reused_batches: int
    compute_seconds: float
    wall_seconds: float
    computed_chunks: int
    computed_tokens: int
    peak_rss_bytes: int
    peak_bytes: int | None = None

    @property
    def reused_chunks(self) -> int:
        """How many chunks an earlier run did: all, if nothing was left to compute."""
        if not self.computed_chunks:
            return self.chunks
        return self.texts - self.computed_chunks

    @property
    def stored(self) -> bool:
        """Whether vectors were asked for, not attention alone."""
        return self.vectors is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTask:
    """One pass to make: which model, over which tokens, with which outputs."""

    collection: str
    model: ModelConfig
    location: ModelLocation
    tokens_dir: Path
    fingerprint: str  # of texts, tokenizer and window
    dtype: str
    device: str
    outputs: tuple[Output, ...]


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
        self, task: DenseTask, tokens: TokenTable, plan: BatchPlan, first: Int64Array
    ) -> DenseBlock:
        """Finish a pass: `first` is, for each row, the first row of the same text.

        Raises:
            ModelError: the model cannot be loaded or gives unusable vectors.
            RunStopped: the run ended early; what is marked stays done.
        """
        started = time.perf_counter()
        job = self._prepare(task, tokens, plan)
        requests = self._missing(task, plan)
        done_before = len(plan.rows) - self._rows(plan, requests)
        self._emit(
            StageStarted(
                stage="dense",
                collection=task.collection,
                model=task.model.name,
                total=len(plan.rows),
                done_before=done_before,
            )
        )
        replies = self._execute(task, job, requests)
        if "dense" in task.outputs:
            _copy_to_equal_texts(job.vectors, first)
        block = self._block(task, job, tokens, plan, first, replies, started)
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

    def _prepare(
        self, task: DenseTask, tokens: TokenTable, plan: BatchPlan
    ) -> EncodeJob:
        """Make the pass's folder; drop what an earlier run with other settings left."""
        folder = self._work_dir / f"dense-{task.model.name}"
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[Output, Path] = {
            "dense": folder / "vectors.npy",
            "attention": folder / "attention.f32",
        }
        least_bytes: dict[Output, int] = {
            "dense": len(tokens) * task.model.vector_dim * _FLOAT32_BYTES,
            "attention": int(tokens.offsets[-1]) * _FLOAT32_BYTES,
        }
        for output, path in files.items():
            name = _pass_name(task, output)
            self._ledger.open_pass(name, _fingerprint(task, plan, output))
            whole = path.is_file() and path.stat().st_size >= least_bytes[output]
            # Without a finished batch the file may be another pass's.
            if whole and self._ledger.finished(name):
                continue
            self._ledger.start_over(name)
            path.unlink(missing_ok=True)
        if not files["dense"].is_file():
            create_vectors(files["dense"], len(tokens), task.model.vector_dim)
        if "attention" in task.outputs and not files["attention"].is_file():
            create_attention(files["attention"], int(tokens.offsets[-1]))
        save_plan(folder / "plan.npz", plan)
        return EncodeJob(
            model=task.model,
            location=task.location.path,
            tokens=task.tokens_dir,
            plan=folder / "plan.npz",
            vectors=files["dense"],
            attention=files["attention"] if "attention" in task.outputs else None,
            device=task.device,
            dtype=task.dtype,
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

    @staticmethod
    def _rows(plan: BatchPlan, requests: list[BatchRequest]) -> int:
        return sum(len(plan.batch(request.batch)) for request in requests)

    def _execute(
        self, task: DenseTask, job: EncodeJob, requests: list[BatchRequest]
    ) -> list[BatchReply]:
        if not requests:
            return []
        replies = []
        with self._open_executor(job, len(requests)) as executor:
            for reply in executor.run(requests):
                self._mark(task, reply)
                replies.append(reply)
        return replies

    def _mark(self, task: DenseTask, reply: BatchReply) -> None:
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
        self._emit(
            BatchFinished(
                stage="dense",
                collection=task.collection,
                model=task.model.name,
                items=reply.rows,
                seconds=reply.seconds,
                tokens=reply.tokens,
                padded_tokens=reply.padded_tokens,
                device=reply.device,
            )
        )

    def _block(
        self,
        task: DenseTask,
        job: EncodeJob,
        tokens: TokenTable,
        plan: BatchPlan,
        first: Int64Array,
        replies: list[BatchReply],
        started: float,
    ) -> DenseBlock:
        records = self._ledger.finished(_pass_name(task, task.outputs[0]))
        vectors = np.load(job.vectors, mmap_mode="r")
        attention = None
        if job.attention is not None:
            weights = np.memmap(job.attention, np.float32, mode="r")
            attention = TokenAttention(tokens, weights, first)
        return DenseBlock(
            model=task.model,
            location=task.location,
            vectors=vectors if "dense" in task.outputs else None,
            attention=attention,
            attention_fingerprint=_fingerprint(task, plan, "attention"),
            dtype=task.dtype,
            devices=tuple(sorted({reply.device for reply in replies} or {task.device})),
            chunks=len(tokens),
            texts=len(plan.rows),
            tokens=int(tokens.offsets[-1]),
            padding_ratio=sum(record.padded_tokens for record in records)
            / max(1, sum(record.tokens for record in records)),
            truncated_chunks=int(np.count_nonzero(tokens.truncated)),
            truncated_tokens=int(tokens.truncated.sum()),
            batch_sizes=tuple(sorted({record.rows for record in records})),
            batches=len(plan),
            reused_batches=len(plan) - len(replies),
            compute_seconds=sum(record.seconds for record in records),
            wall_seconds=time.perf_counter() - started,
            computed_chunks=sum(reply.rows for reply in replies),
            computed_tokens=sum(reply.tokens for reply in replies),
            peak_rss_bytes=max((reply.peak_bytes for reply in replies), default=0),
        )


def _pass_name(task: DenseTask, output: Output) -> str:
    return f"{output}:{task.model.name}"


def _fingerprint(task: DenseTask, plan: BatchPlan, output: Output) -> str:
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
        "plan": plan.digest,
        "libraries": [importlib.metadata.version(name) for name in _LIBRARIES],
        "instruction_sets": this_machine().instruction_sets,
    }
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _copy_to_equal_texts(path: Path, first: Int64Array) -> None:
    """Fill rows whose text stands earlier from the row that was computed."""
    copies: npt.NDArray[np.int64] = np.flatnonzero(first != np.arange(len(first)))
    if not len(copies):
        return
    vectors = np.load(path, mmap_mode="r")
    for start in range(0, len(copies), _ROWS_A_COPY):
        rows = copies[start : start + _ROWS_A_COPY]
        write_vectors(path, rows, vectors[first[rows]])
