"""One batch of the plan: read its ids, encode, check; then write in place and sync.

The two halves may run in two threads, so that a GPU does not wait for the disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..encoders.adaptive import AdaptiveEncoder
from ..encoders.protocols import AttentionEncoder
from ..encoders.windows import own_attention
from ..errors import DeviceOutOfMemory, ModelError
from ..hardware import peak_memory_bytes
from ..intake.pieces import Pieces
from ..intake.token_table import TokenTable
from ..memory_plan import PassProbe
from ..planning import BatchPlan
from ..records import Float32Array, Int64Array, UInt32Array
from .calibration import calibrated_budget
from .jobs import BatchReply, BatchRequest, EncodeJob

UNIT_NORM_TOLERANCE = 1e-3
FLOAT32_BYTES = 4


def create_vectors(path: Path, rows: int, dimension: int) -> None:
    """Make a float32 .npy of [rows, dimension], to be filled row by row."""
    np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(rows, dimension)
    ).flush()


def write_vectors(path: Path, rows: Int64Array, vectors: Float32Array) -> None:
    """Put vectors [n, dimension] into some rows of a .npy and sync it."""
    with closing(VectorFile(path)) as file:
        file.write(rows, vectors)


class PlacedFile:
    """A file that is there, written at byte offsets: always this one, whatever comes to
    bear its name later.

    So a worker whose run was killed cannot write into the files of the next one.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: it is not there or cannot be written; so does `write`.
        """
        self._descriptor = os.open(path, os.O_WRONLY)

    def write(self, pieces: Sequence[tuple[int, Float32Array]]) -> None:
        """Put arrays at byte offsets, and sync the file.

        By plain writes: a full disk is an OSError then, where it would end the process
        if the pages of a map could not be written.
        """
        for offset, values in pieces:
            data = np.ascontiguousarray(values).tobytes()
            _write_all(self._descriptor, data, offset)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


class VectorFile:
    """A float32 .npy of [rows, width] that is there, filled row by row."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: it is not there or cannot be written; so does `write`.
        """
        self._start = np.load(path, mmap_mode="r").offset
        self._file = PlacedFile(path)

    def write(self, rows: Int64Array, vectors: Float32Array) -> None:
        """Put vectors [n, width] into some rows, and sync the file."""
        width = vectors.shape[1] * FLOAT32_BYTES
        self._file.write(
            [
                (self._start + int(row) * width, vector)
                for row, vector in zip(rows, vectors, strict=True)
            ]
        )

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


def create_attention(path: Path, tokens: int) -> None:
    """Make a flat float32 file with a place for each token."""
    with path.open("wb") as stream:
        stream.truncate(tokens * FLOAT32_BYTES)


def save_plan(path: Path, plan: BatchPlan) -> None:
    """Write a plan for workers to read."""
    with path.open("wb") as stream:
        np.savez(stream, rows=plan.rows, bounds=plan.bounds)


F = TypeVar("F", VectorFile, PlacedFile)


@dataclass(frozen=True, slots=True)
class Computed:
    """A batch that is not on disk yet: what each output is to get, and the reply.

    `dense` and `attention` are pieces with their vectors [n, width] and weights.
    """

    reply: BatchReply
    dense: tuple[Int64Array, Float32Array] | None
    attention: tuple[Int64Array, list[Float32Array]] | None


class BatchEncoder:
    """Does the batches of one job with one encoder, in smaller passes where needed.

    `device_peak_bytes` reads how much of a GPU's memory was used at most;
    `release` gives back what its allocator keeps. With a `pass_probe` one pass is
    measured first, and the budget lowered where it took more than was reckoned.
    """

    def __init__(
        self,
        job: EncodeJob,
        encoder: AttentionEncoder,
        *,
        device_peak_bytes: Callable[[], int | None] = lambda: None,
        release: Callable[[], None] = lambda: None,
        pass_probe: PassProbe | None = None,
    ) -> None:
        """Open what the job names; `close` lets go of it.

        Raises:
            OSError: a file is not there or cannot be written.
        """
        self._job = job
        self._open = ExitStack()
        self._vectors = self._opened(VectorFile, job.vectors)
        self._windows = self._opened(VectorFile, job.windows)
        self._attention = self._opened(PlacedFile, job.attention)
        self._device_peak_bytes = device_peak_bytes
        on_cpu = encoder.device == "cpu"
        self._tokens = TokenTable.open(job.tokens)
        self._pieces = Pieces.open(job.pieces)
        with np.load(job.plan) as stored:
            self._plan = BatchPlan(rows=stored["rows"], bounds=stored["bounds"])
        budget, self._calibration = calibrated_budget(
            job, self._plan, self._pieces, self._tokens, None if on_cpu else pass_probe
        )
        self._encoder = AdaptiveEncoder(
            encoder,
            job.model.name,
            # On a CPU passes are small already: there a plan's batch is never cut.
            budget_tokens=None if on_cpu else budget,
            release=release,
            used_bytes=peak_memory_bytes if on_cpu else device_peak_bytes,
            cap_bytes=None if on_cpu else job.memory_cap_bytes,
        )

    def run(self, request: BatchRequest) -> BatchReply:
        """Put the batch's outputs on disk and tell what it cost.

        Raises:
            ModelError, DeviceOutOfMemory: as `compute` does.
            OSError: as `write` does.
        """
        return self.write(self.compute(request))

    def compute(self, request: BatchRequest) -> Computed:
        """Encode what the outputs of a batch lack.

        Raises:
            ModelError: a vector is not finite or not of unit length.
            DeviceOutOfMemory: a text alone does not fit the device; `row` is its own.
        """
        started = time.perf_counter()
        batch = self._plan.batch(request.batch)
        rows = request.rows(len(batch))
        pieces = batch[rows]
        ids = [self._pieces.ids(self._tokens, int(piece)) for piece in pieces]
        vectors, attention = self._encoded(request, pieces, ids)
        dense_part = attention_part = None
        if "dense" in request.outputs:
            check_unit_vectors(vectors, self._job.model.name)
            own = request.lacking("dense", rows)
            dense_part = pieces[own], vectors[own]
        if "attention" in request.outputs:
            own = request.lacking("attention", rows)
            attention_part = pieces[own], [attention[at] for at in own]
        cost = self._encoder.take_cost()
        reply = BatchReply(
            batch=request.batch,
            outputs=request.outputs,
            rows=len(pieces),
            tokens=sum(len(row) for row in ids),
            padded_tokens=cost.positions,
            seconds=time.perf_counter() - started,
            device=self._encoder.device,
            peak_bytes=peak_memory_bytes(),
            device_peak_bytes=self._device_peak_bytes(),
            pass_rows=tuple(sorted(set(cost.rows))),
            oom_retries=cost.oom_retries,
            budget_tokens=self._encoder.budget.now,
            calibration=self._calibration,
        )
        return Computed(reply, dense_part, attention_part)

    def write(self, computed: Computed) -> BatchReply:
        """Put what was computed on disk, synced; return the reply with that time in it.

        Raises:
            OSError: a file cannot be written.
        """
        started = time.perf_counter()
        if computed.attention is not None:
            self._write_attention(*computed.attention)
        if computed.dense is not None:
            self._write_dense(*computed.dense)
        seconds = computed.reply.seconds + time.perf_counter() - started
        return replace(computed.reply, seconds=seconds)

    def close(self) -> None:
        """Let go of the files."""
        self._open.close()

    def _encoded(
        self, request: BatchRequest, pieces: Int64Array, ids: list[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        try:
            if "attention" in request.outputs:
                return self._encoder.encode_with_attention(ids)
            return self._encoder.encode(ids), []
        except DeviceOutOfMemory as error:
            if error.row is None:
                raise
            row = self._row(int(pieces[error.row]))
            raise DeviceOutOfMemory(error.message, cure=error.cure, row=row) from error

    def _opened(self, kind: type[F], path: Path | None) -> F | None:
        if path is None:
            return None
        return self._open.enter_context(closing(kind(path)))

    def _row(self, piece: int) -> int:
        """Return the row that a piece is, or is a window of."""
        window = piece - self._pieces.rows
        return piece if window < 0 else int(self._pieces.window_rows[window])

    def _write_dense(self, pieces: Int64Array, vectors: Float32Array) -> None:
        """Put texts in their rows, and windows in a file of their own."""
        window = pieces >= self._pieces.rows
        if not window.all():
            _named(self._vectors, "vectors").write(pieces[~window], vectors[~window])
        if window.any():
            places = pieces[window] - self._pieces.rows
            _named(self._windows, "windows").write(places, vectors[window])

    def _write_attention(
        self, pieces: Int64Array, attention: list[Float32Array]
    ) -> None:
        places = [
            self._place(int(piece), weights)
            for piece, weights in zip(pieces, attention, strict=True)
        ]
        _named(self._attention, "attention").write(
            [(token * FLOAT32_BYTES, weights) for token, weights in places]
        )

    def _place(self, piece: int, weights: Float32Array) -> tuple[int, Float32Array]:
        """Return where in the table a piece's attention begins, and what is kept."""
        offsets = self._tokens.offsets
        if piece < self._pieces.rows:
            return int(offsets[piece]), weights
        window = piece - self._pieces.rows
        row = int(self._pieces.window_rows[window])
        first, kept = own_attention(
            weights,
            int(self._pieces.starts[window]),
            int(self._pieces.stops[window]),
            int(offsets[row + 1] - offsets[row]),
            self._tokens.frame,
        )
        return int(offsets[row]) + first, kept


def _named(file: F | None, what: str) -> F:
    if file is None:
        raise ValueError(f"the job names no file for {what}")
    return file


def check_unit_vectors(vectors: Float32Array, model: str) -> None:
    """Refuse vectors [n, dimension] that are not finite or not of unit length.

    Raises:
        ModelError: naming the model and what was found.
    """
    norms = np.linalg.norm(vectors, axis=1)
    # A norm that is not finite fails the comparison too.
    wrong = ~(np.abs(norms - 1.0) <= UNIT_NORM_TOLERANCE)
    if wrong.any():
        raise ModelError(
            f"Model {model} gave {int(wrong.sum())} vectors that are not of unit "
            f"length, the first of length {norms[wrong][0]}.",
            cure="Run with another precision or device; nothing wrong was stored.",
        )


def write_at(path: Path, pieces: list[tuple[int, Float32Array]]) -> None:
    """Put arrays at byte offsets of a file that is there, and sync it."""
    with closing(PlacedFile(path)) as file:
        file.write(pieces)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write to the end: one call may write less than it was given."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
