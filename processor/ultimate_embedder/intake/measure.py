"""Measure a collection before any model loads: its chunks, its tokens, its plans."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import LongTexts, ModelConfig
from ..encoders.protocols import Tokenizer
from ..encoders.sources import ModelLocation
from ..model_manager import ModelSource
from ..planning import ROWS_A_BATCH, BatchPlan, plan_batches
from ..records import Int64Array
from ..telemetry.events import Emit, StageFinished, StageStarted
from .chunk_store import ChunkStore
from .chunks import CollectionFolder
from .pieces import Pieces
from .token_table import TokenTable


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One model's view of a collection: its tokens, the pieces that go through it,
    and the plan over their numbers.
    """

    config: ModelConfig
    location: ModelLocation
    tokenizer: Tokenizer
    tokens_dir: Path
    tokens: TokenTable
    pieces: Pieces
    plan: BatchPlan


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
) -> MeasuredCollection:
    """Read, tokenise and plan; token ids are kept in `work_dir` for the stages.

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
        _measure(store, first, model, manager, work_dir, long_texts, rows_a_batch)
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
    rows_a_batch: int,
) -> MeasuredModel:
    tokenizer = manager.tokenizer(model)
    cut_at = model.max_tokens if long_texts == "cut" else None
    name = f"tokens-{tokenizer.fingerprint[:16]}"
    directory = work_dir / (name if cut_at is None else f"{name}-cut")
    tokens = TokenTable.build(store, tokenizer, directory, cut_at=cut_at)
    distinct = np.unique(first)
    pieces = Pieces.of(tokens, distinct, model.max_tokens)
    numbers = pieces.numbers(distinct)
    return MeasuredModel(
        config=model,
        location=manager.locate(model),
        tokenizer=tokenizer,
        tokens_dir=directory,
        tokens=tokens,
        pieces=pieces,
        plan=plan_batches(
            pieces.lengths(tokens, numbers), numbers, max_rows=rows_a_batch
        ),
    )
