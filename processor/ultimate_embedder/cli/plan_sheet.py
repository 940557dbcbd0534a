"""The plan of a run as a table, and as data for `--log-format json`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..disk_space import gib
from ..telemetry.progress import duration
from .output import Sheet, count

if TYPE_CHECKING:
    from ..run.plan import CollectionPlan, ModelPlan, RunPlan

_COLLECTIONS = ("collection", "chunks", "set aside")
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


def plan_sheets(plan: RunPlan) -> tuple[Sheet, Sheet]:
    """Return what there is, and each model's pass over it.

    Memory and time are estimates; `windows` counts those that texts longer than the
    model's window are embedded in, `cut` the chunks that lose their end.
    """
    collections = Sheet(
        title=f"Plan; nothing was computed. Expected time: {_total(plan)}",
        columns=_COLLECTIONS,
        rows=tuple(
            (one.name, count(one.chunks), count(one.quarantined))
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
    return collections, passes


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
