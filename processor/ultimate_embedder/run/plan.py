"""What a run would do, measured without loading a model: the dry run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..intake.measure import MeasuredCollection, MeasuredModel
from ..memory_plan import MemoryPlan
from .memory import plan_memory

CPU_TOKENS_A_SECOND = 6_000.0
"""Of one worker with bfloat16 weights and a 384-d, six-layer model, measured on one
core with AVX512-BF16. A first guess: the run's progress shows the real rate. No GPU
was measured, so a plan for one states no time."""

_REFERENCE_DIMENSION = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model's pass over one collection, as planned.

    `tokens` are those of the chunks; the `windows` of long ones hold `window_tokens`,
    special tokens and prompt of each counted. `memory` is None, and `estimated_bytes`
    0, where the model's files do not say its shape.
    """

    model: str
    tokens: int
    padded_tokens: int
    windows: int
    window_tokens: int
    truncated_chunks: int
    batches: int
    estimated_bytes: int
    expected_seconds: float | None
    memory: MemoryPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPlan:
    """One collection, as measured. What the `files_aside` hold is not known."""

    name: str
    chunks: int
    chunks_aside: int
    files_aside: int
    models: tuple[ModelPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedPlan:
    """A collection that could not be measured, and why."""

    name: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """All that a run would do; `exit_code` is the one it would end with at best.

    `beside` is the memory of the models that are not dense, where their files are here.
    """

    collections: tuple[CollectionPlan, ...]
    failed: tuple[FailedPlan, ...] = ()
    beside: tuple[MemoryPlan, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 when a collection could not be measured."""
        return int(bool(self.failed))


@dataclass(frozen=True, slots=True)
class PlanBudget:
    """What passes may take: their precision, the cap (None on a CPU), most rows."""

    dtype: str
    cap_bytes: int | None
    most_rows: int


def plan_collection(
    measured: MeasuredCollection, devices: tuple[str, ...], budget: PlanBudget
) -> CollectionPlan:
    """Return the plan of a measured collection on these devices."""
    conservation = measured.store.conservation
    return CollectionPlan(
        name=measured.store.collection,
        chunks=len(measured.store),
        chunks_aside=conservation.chunks_aside,
        files_aside=conservation.files_aside,
        models=tuple(_plan(model, devices, budget) for model in measured.models),
    )


def _plan(
    model: MeasuredModel, devices: tuple[str, ...], budget: PlanBudget
) -> ModelPlan:
    memory = plan_memory(model, budget.dtype, budget.cap_bytes, budget.most_rows)
    windows = model.pieces.rows + np.arange(model.pieces.windows)
    padded = sum(_batch_positions(model))
    on_cpu = devices[0] == "cpu"
    rate = CPU_TOKENS_A_SECOND * len(devices)
    relative_cost = (model.config.vector_dim / _REFERENCE_DIMENSION) ** 2
    return ModelPlan(
        model=model.config.name,
        tokens=int(model.tokens.lengths.sum()),
        padded_tokens=padded,
        windows=len(windows),
        window_tokens=int(model.pieces.lengths(model.tokens, windows).sum()),
        truncated_chunks=int(np.count_nonzero(model.tokens.truncated)),
        batches=len(model.plan),
        estimated_bytes=memory.planned_peak_bytes if memory else 0,
        expected_seconds=padded * relative_cost / rate if on_cpu else None,
        memory=memory,
    )


def _batch_positions(model: MeasuredModel) -> list[int]:
    """Return for each batch its pieces times its longest, in tokens."""
    batches = (model.plan.batch(number) for number in range(len(model.plan)))
    return [
        len(pieces) * int(model.pieces.lengths(model.tokens, pieces).max())
        for pieces in batches
    ]
