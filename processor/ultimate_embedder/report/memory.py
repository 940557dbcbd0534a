"""Memory: what a GPU held against the cap, what a process held on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError

from ..export.manifest import Manifest
from ..export.manifest_sections import LeaseEvent, RerankRan
from . import wording as say
from .charts import Bar, bars, noted
from .markup import Html, folded, section, table, tag
from .overview import stage_name

_LISTED = 100
_LOANS = TypeAdapter(list[LeaseEvent])


def leases(manifest: Manifest) -> list[LeaseEvent]:
    """Return the loans of dense and sparse passes and of rerank, in order of time."""
    found = [event for run in manifest.dense_run or () for event in run.lease_events]
    for run in manifest.sparse_run or ():
        found += _told_freely(run.statistics.get("lease_events"))
    if isinstance(manifest.rerank_run, RerankRan):
        found += manifest.rerank_run.lease_events
    return sorted(found, key=lambda event: event.acquired_at)


def _told_freely(loans: object) -> list[LeaseEvent]:
    """Return loans of a free-form section; what has another form is no loan."""
    try:
        return _LOANS.validate_python(loans or [])
    except ValidationError:
        return []


def memory(manifest: Manifest) -> Html:
    """Return peaks against the cap, and the memory of processes where measured."""
    loans = leases(manifest)
    cards = [card for card in (_devices(loans), _processes(manifest)) if card]
    grid = tag("div", *cards, class_="grid") if cards else None
    return section("memory", "Memory", grid, _table(loans))


def peaks(manifest: Manifest) -> list[tuple[str, int, int | None]]:
    """Return by stage or loan the highest bytes on a device, and the cap."""
    loans = leases(manifest)
    if loans:
        return [
            (f"{event.model} on {device}", peak, event.cap_bytes)
            for event in loans
            for device, peak in event.peak_bytes.items()
        ]
    return [
        (stage_name(name), part.peak_bytes, None)
        for name, part in manifest.performance_baseline.items()
        if part.peak_bytes is not None
    ]


def _devices(loans: list[LeaseEvent]) -> Html | None:
    rows = [
        Bar(
            label=f"{event.model} · {device}",
            value=peak,
            told=f"{say.size(peak)} of {say.size(event.cap_bytes)}",
            mark=event.cap_bytes,
            tone=1 if peak > event.cap_bytes else 0,
        )
        for event in loans
        for device, peak in event.peak_bytes.items()
    ]
    if not rows:
        return None
    picture = bars("memory-gpu", "Most memory on a GPU, against the cap", rows[:20])
    return noted(picture, "The dashed line is the cap. CUDA contexts are counted.")


def _processes(manifest: Manifest) -> Html | None:
    rows = [
        Bar(label=stage_name(name), value=part.rss_bytes, told=say.size(part.rss_bytes))
        for name, part in manifest.performance_baseline.items()
        if part.rss_bytes is not None
    ]
    if not rows:
        return None
    return noted(
        bars("memory-process", "Most memory of a process", rows),
        "Memory of the machine: no cap applies to it.",
    )


def _table(loans: list[LeaseEvent]) -> Html | None:
    if not loans:
        return None
    rows = [row for event in loans[:_LISTED] for row in _rows(event)]
    columns = ("model", "device", "from", "to", "before", "peak", "after", "came back")
    caption = f"{say.plural(len(loans), 'loan')} of GPUs, in order of time"
    numbers = ("before", "peak", "after")
    return folded("GPU by loan", table(columns, rows, caption=caption, numbers=numbers))


def _rows(event: LeaseEvent) -> Iterator[tuple[str, ...]]:
    for device in event.devices:
        figures = (event.before_bytes, event.peak_bytes, event.after_bytes)
        yield (
            event.model,
            device,
            event.acquired_at[11:19],
            event.released_at[11:19],
            *(
                say.size(part[device]) if device in part else say.NONE
                for part in figures
            ),
            "yes" if event.returned else "no",
        )
