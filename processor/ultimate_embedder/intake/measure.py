"""Measure a collection before any model loads: its chunks, its tokens, its plans."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import ROWS_A_BATCH, LongTexts, ModelConfig
from ..encoders.architecture import read_architecture
from ..encoders.protocols import Tokenizer
from ..encoders.sources import ModelLocation
from ..errors import ModelError
from ..memory_cost import Architecture, padded_length
from ..memory_plan import batch_budget
from ..models.manager import ModelSource
from ..planning import TOKENS_A_BATCH, BatchPlan, plan_batches
from ..records import Int64Array
from ..telemetry.events import Emit, StageFinished, StageStarted, WorkRedone
from .chunk_store import ChunkStore
from .chunks import CollectionFolder
from .pieces import Pieces
from .token_table import TokenTable


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One model's view of a collection: its tokens, the pieces that go through it,
    and the plan over their numbers.

    `architecture` is None where the model's files do not say it.
    """

    config: ModelConfig
    location: ModelLocation
    tokenizer: Tokenizer
    tokens_dir: Path
    tokens: TokenTable
    pieces: Pieces
    plan: BatchPlan
    architecture: Architecture | None = None


@dataclass(frozen=True, slots=True)
class MeasuredCollection:
    """`first_rows` is, for each row, the first row that has the same text."""

    store: ChunkStore
    first_rows: Int64Array
    models: tuple[MeasuredModel, ...]

    def model(self, name: str) -> MeasuredModel:
        """Return one model's view."""
        return next(model for model in self.models if model.config.name == name)


def measure_collection(
    folder: CollectionFolder,
    models: Sequence[ModelConfig],
    manager: ModelSource,
    work_dir: Path,
    emit: Emit,
    *,
    long_texts: LongTexts = "windows",
    rows_a_batch: int = ROWS_A_BATCH,
    gpu_memory_cap_bytes: int | None = None,
) -> MeasuredCollection:
    """Read, tokenise and plan; token ids are kept in `work_dir` for the stages.

    `gpu_memory_cap_bytes`: batches are for a GPU under this cap; None: for a CPU.

    Raises:
        InputError: the collection has no usable chunk.
        ModelError: a model's files are not to be had.
    """
    started = time.perf_counter()
    emit(
        StageStarted(
            stage="read", collection=folder.name, total=len(folder.files), unit="files"
        )
    )
    store = ChunkStore.build(folder, work_dir / "chunks", emit)
    first = store.first_rows_of_texts()
    measured = tuple(
        _planned(
            _measure(store, first, model, manager, work_dir, long_texts, emit),
            np.unique(first),
            rows_a_batch,
            gpu_memory_cap_bytes,
        )
        for model in models
    )
    emit(
        StageFinished(
            stage="read",
            collection=folder.name,
            items=len(store),
            seconds=time.perf_counter() - started,
        )
    )
    return MeasuredCollection(store, first, measured)


def _measure(
    store: ChunkStore,
    first: Int64Array,
    model: ModelConfig,
    manager: ModelSource,
    work_dir: Path,
    long_texts: LongTexts,
    emit: Emit,
) -> MeasuredModel:
    """Return a model's view, its plan yet empty."""

    def tell(reason: str, damaged: bool) -> None:
        emit(
            WorkRedone(
                stage="read",
                collection=store.collection,
                model=model.name,
                reason=reason,
                damaged=damaged,
            )
        )

    tokenizer = manager.tokenizer(model)
    cut_at = model.max_tokens if long_texts == "cut" else None
    name = f"tokens-{tokenizer.fingerprint[:16]}"
    directory = work_dir / (name if cut_at is None else f"{name}-cut")
    tokens = TokenTable.build(store, tokenizer, directory, cut_at=cut_at, tell=tell)
    location = manager.locate(model)
    none = np.zeros(0, dtype=np.int64)
    return MeasuredModel(
        config=model,
        location=location,
        tokenizer=tokenizer,
        tokens_dir=directory,
        tokens=tokens,
        pieces=Pieces.of(tokens, np.unique(first), model.max_tokens),
        plan=plan_batches(none, none),
        architecture=_architecture(model, location),
    )


def _planned(
    model: MeasuredModel,
    distinct: Int64Array,
    rows_a_batch: int,
    gpu_memory_cap_bytes: int | None,
) -> MeasuredModel:
    numbers = model.pieces.numbers(distinct)
    lengths = model.pieces.lengths(model.tokens, numbers)
    budget = TOKENS_A_BATCH
    if gpu_memory_cap_bytes is not None and len(lengths):
        lengths = gpu_lengths(lengths, model.config.max_tokens)
        budget = batch_budget(
            model.architecture, gpu_memory_cap_bytes, int(lengths.max())
        )
    plan = plan_batches(lengths, numbers, budget_tokens=budget, max_rows=rows_a_batch)
    return replace(model, plan=plan)


def gpu_lengths(lengths: Int64Array, window: int) -> Int64Array:
    """Return the positions that a GPU computes for texts of these lengths."""
    padded = {one: padded_length(one, window) for one in set(lengths.tolist())}
    return np.array([padded[one] for one in lengths.tolist()], dtype=np.int64)


def _architecture(model: ModelConfig, location: ModelLocation) -> Architecture | None:
    if model.backend == "onnx":
        return None  # its runtime keeps memory in its own way
    try:
        return read_architecture(location.path, "none")
    except ModelError:
        return None  # damaged or incomplete, which loading says better
