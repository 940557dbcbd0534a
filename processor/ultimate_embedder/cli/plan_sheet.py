"""The plan of a run as a table, and as data for `--log-format json`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..disk_space import gib
from ..telemetry.progress import duration
from .output import Sheet, count

if TYPE_CHECKING:
    from ..run_plan import CollectionPlan, ModelPlan, RunPlan

_COLUMNS = (
    "collection",
    "model",
    "chunks",
    "set aside",
    "tokens",
    "padded tokens",
    "cut at the window",
    "batches",
    "memory",
    "time",
)


def plan_sheet(plan: RunPlan) -> Sheet:
    """Return a row for each model of each collection; memory and time are estimates."""
    rows = [
        _row(collection, model)
        for collection in plan.collections
        for model in collection.models
    ]
    return Sheet(
        title=f"Plan; nothing was computed. Expected time: {_total(plan)}",
        columns=_COLUMNS,
        rows=tuple(rows),
        numbers=_COLUMNS[2:],
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
        count(collection.chunks),
        count(collection.quarantined),
        count(model.tokens),
        count(model.padded_tokens),
        count(model.truncated_chunks),
        count(model.batches),
        gib(model.estimated_bytes),
        "not known"
        if model.expected_seconds is None
        else duration(model.expected_seconds),
    )
