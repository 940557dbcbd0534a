"""The plan of a run as a table, and as data for `--log-format json`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..config import PipelineConfig
from ..disk_space import gib
from ..retrieval.probes import PROBES, RERANK_PROBES
from ..telemetry.progress import duration
from .output import Sheet, count

if TYPE_CHECKING:
    from ..memory_plan import MemoryPlan
    from ..run.plan import CollectionPlan, ModelPlan, RunPlan

_COLLECTIONS = ("collection", "chunks", "chunks set aside", "files set aside")
_PASSES = (
    "collection",
    "model",
    "tokens",
    "padded",
    "windows",
    "cut",
    "batches",
    "memory",
    "time",
)

_MEMORY = (
    "collection",
    "model",
    "precision",
    "weights",
    "activations",
    "peak",
    "cap",
    "budget",
    "longest",
    "rows",
    "fits",
)


def plan_sheets(plan: RunPlan, on_top: str = "") -> tuple[Sheet, ...]:
    """Return what there is, each model's pass over it, and the memory that takes.

    `on_top` says what the time stated leaves out.

    Memory and time are estimates; `windows` counts those that texts longer than the
    model's window are embedded in, `cut` the chunks that lose their end.
    """
    collections = Sheet(
        title="Plan; nothing was computed. Expected time of the dense passes: "
        f"{_total(plan)}{on_top}",
        columns=_COLLECTIONS,
        rows=tuple(
            (
                one.name,
                count(one.chunks),
                count(one.chunks_aside),
                count(one.files_aside),
            )
            for one in plan.collections
        ),
        numbers=_COLLECTIONS[1:],
    )
    passes = Sheet(
        title="Passes",
        columns=_PASSES,
        rows=tuple(
            _row(collection, model)
            for collection in plan.collections
            for model in collection.models
        ),
        numbers=_PASSES[2:],
    )
    memory = _memory_sheet(plan)
    return (collections, passes, memory) if memory.rows else (collections, passes)


def on_top_of_passes(config: PipelineConfig) -> str:
    """Return what a run does after its passes; at what rate is not known before."""
    does = []
    if config.probes:
        does.append(f"ranking up to {PROBES} probes a collection")
    if config.queries is not None:
        does.append("ranking the queries of --queries")
    if does and (model := config.active_rerank):
        which = "the queries" if config.queries else f"{RERANK_PROBES} of them"
        does.append(f"reranking {which} with {model.candidates} candidates each")
    return f"; on top of that {', '.join(does)}" if does else ""


def _memory_sheet(plan: RunPlan) -> Sheet:
    """Return weights, activations and peak of each model against the cap.

    `budget` is in token positions of one pass, `rows` how many of the longest texts it
    holds. A star stands at a family that was not studied.
    """
    rows = [
        (collection.name, model.memory)
        for collection in plan.collections
        for model in collection.models
        if model.memory is not None
    ]
    rows += [("-", memory) for memory in plan.beside]
    return Sheet(
        title="Memory of one device, as planned (* reckoned as a costlier family)",
        columns=_MEMORY,
        rows=tuple((name, *_memory_row(memory)) for name, memory in rows),
        numbers=_MEMORY[3:-1],
    )


def _memory_row(memory: MemoryPlan) -> tuple[str, ...]:
    return (
        memory.model if memory.known else f"{memory.model} *",
        memory.dtype,
        gib(memory.weight_bytes),
        gib(memory.activation_bytes),
        gib(memory.planned_peak_bytes),
        "none" if memory.cap_bytes is None else gib(memory.cap_bytes),
        count(memory.budget_tokens),
        count(memory.longest),
        count(memory.rows_at_longest),
        "yes" if memory.fits else "no",
    )


def plan_document(plan: RunPlan) -> dict[str, Any]:
    """Return the plan as nested plain data."""
    return dataclasses.asdict(plan)


def _total(plan: RunPlan) -> str:
    seconds = [
        model.expected_seconds
        for collection in plan.collections
        for model in collection.models
    ]
    known = [figure for figure in seconds if figure is not None]
    return duration(sum(known)) if len(known) == len(seconds) else "not known"


def _row(collection: CollectionPlan, model: ModelPlan) -> tuple[str, ...]:
    return (
        collection.name,
        model.model,
        count(model.tokens),
        count(model.padded_tokens),
        count(model.windows),
        count(model.truncated_chunks),
        count(model.batches),
        gib(model.estimated_bytes),
        "not known"
        if model.expected_seconds is None
        else duration(model.expected_seconds),
    )
