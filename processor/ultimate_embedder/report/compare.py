"""The page of two runs side by side: rates, peaks, quality, settings that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from ..export.manifest import Manifest
from . import wording as say
from .charts import Bar, Whisker, bars, noted, whiskers
from .markup import Html, Part, long_text, remark, section, table, tag
from .memory import peaks
from .overview import stage_name, stage_seconds
from .page import document
from .quality import card_of, stage_means

_SIDES = ("first", "second")
Pair = tuple[Manifest, Manifest]
Number = TypeVar("Number", int, float)


def comparison_page(first: Manifest, second: Manifest) -> str:
    """Return how a second run differs from a first, as one HTML document."""
    pair = (first, second)
    names = " and ".join(dict.fromkeys(one.collection for one in pair))
    return document(
        f"{names}: two runs compared",
        "",
        _head(names, pair),
        _counts(pair),
        section("pace", "Rates and times", _grid([_rates(pair), _times(pair)])),
        section("memory", "Memory", _grid([_peaks(pair)])),
        _quality(pair),
        _differing("settings", "Settings that differ", _settings(pair)),
        _differing("environment", "Environment that differs", _environment(pair)),
        _warnings(pair),
    )


def _head(names: str, pair: Pair) -> Html:
    legend = [
        tag(
            "p",
            f"{side}: {one.collection}, run {one.run_id or '?'}, "
            f"{one.generated_at[:19].replace('T', ' ') or 'time not told'}",
            class_="lead",
        )
        for side, one in zip(_SIDES, pair, strict=True)
    ]
    return tag("header", tag("h1", f"{names}: two runs"), *legend)


def _counts(pair: Pair) -> Html:
    figures = [dict(_figures(one)) for one in pair]
    rows = [
        (name, say.count(before), say.count(after), say.change(before, after))
        for name, before, after in _both(*figures)
    ]
    listed = table(
        ("figure", *_SIDES, "change"),
        rows,
        caption="What was made",
        numbers=(*_SIDES, "change"),
    )
    return section("counts", "What was made", listed)


def _figures(manifest: Manifest) -> Iterator[tuple[str, int]]:
    yield "chunks", manifest.chunk_count
    yield "tokens", sum(part.tokens for part in manifest.source_subdirs.values())
    if (kept := manifest.conservation) is not None:
        yield "files read", kept.files_read
        yield "files set aside", kept.files_aside
        yield "chunks set aside", kept.chunks_aside
        yield "chunks cut", kept.truncated_chunks


def _both(
    first: Mapping[str, Number], second: Mapping[str, Number]
) -> Iterator[tuple[str, Number, Number]]:
    """Yield what both runs tell."""
    for name, before in first.items():
        if name in second:
            yield name, before, second[name]


def _rates(pair: Pair) -> Html | None:
    rates = [
        {run.model: run.chunks_per_second for run in one.dense_run or ()}
        for one in pair
    ]
    return _paired("rates", "Chunks a second, dense", rates, say.amount)


def _times(pair: Pair) -> Html | None:
    times = [
        {stage_name(name): seconds for name, seconds in stage_seconds(one)}
        for one in pair
    ]
    return _paired("times", "Time by stage", times, say.time)


def _peaks(pair: Pair) -> Html | None:
    found: list[dict[str, float]] = []
    for one in pair:
        highest: dict[str, float] = {}
        for name, peak, _ in peaks(one):
            highest[name] = max(peak, highest.get(name, 0))
        for key, part in one.performance_baseline.items():
            if part.rss_bytes is not None:
                highest[f"{stage_name(key)} (process)"] = part.rss_bytes
        found.append(highest)
    return _paired("peaks", "Most memory", found, say.size)


def _paired(
    key: str,
    title: str,
    found: Sequence[Mapping[str, float]],
    told: Callable[[float], str],
) -> Html | None:
    """Return bars in pairs; what one run alone has is a bar alone."""
    first, second = found
    rows = []
    for name in dict.fromkeys([*first, *second]):
        for number, (side, figures) in enumerate(zip(_SIDES, found, strict=True)):
            if name not in figures:
                continue
            words = told(figures[name])
            if number and name in first:
                words += f" ({say.change(first[name], second[name])})"
            label = f"{name}, {side}" if not number or name not in first else side
            rows.append(Bar(label=label, value=figures[name], told=words, tone=number))
    return noted(bars(key, title, rows[:60])) if rows else None


def _quality(pair: Pair) -> Html:
    rows = [
        row
        for stage in dict.fromkeys(name for one in pair for name in _ndcg(one))
        for number, one in enumerate(pair)
        if (row := _whisker(stage, number, one)) is not None
    ]
    if not rows:
        told = "Neither manifest has figures with intervals."
        return section("quality", "Search quality", remark(told), _means(pair))
    picture = whiskers("quality-pair", "nDCG@10 by stage", rows, low=0.0, high=1.0)
    note = (
        "Bands are 95 % intervals. The runs may have drawn different questions: bands "
        "that overlap prove no difference."
    )
    return section("quality", "Search quality", noted(picture, note))


def _ndcg(manifest: Manifest) -> list[str]:
    card = card_of(manifest)
    return [stage.stage for stage in card.stages] if card else []


def _whisker(stage: str, number: int, manifest: Manifest) -> Whisker | None:
    card = card_of(manifest)
    figures = card.stage(stage) if card else None
    found = figures.ndcg_at_10 if figures else None
    if found is None:
        return None
    return Whisker(
        label=f"{stage}, {_SIDES[number]}",
        value=found.value,
        low=found.low,
        high=found.high,
        told=say.estimate(found),
        tone=number,
    )


def _means(pair: Pair) -> Html | None:
    both = [
        {
            f"{stage} {measure}": value
            for stage, means in stage_means(one)
            for measure, value in means.items()
        }
        for one in pair
    ]
    rows = [
        (name, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}")
        for name, before, after in _both(*both)
    ]
    if not rows:
        return None
    numbers = (*_SIDES, "difference")
    return table(("measure", *numbers), rows, caption="Means", numbers=numbers)


def _settings(pair: Pair) -> list[dict[str, str]]:
    return [
        {
            entry.key: f"{entry.value} ({entry.layer})"
            for entry in (one.feature_toggles.provenance if one.feature_toggles else ())
        }
        for one in pair
    ]


def _environment(pair: Pair) -> list[dict[str, str]]:
    return [
        {
            **{
                f"model {run.model}": run.revision or "?" for run in one.dense_run or ()
            },
            "processor": one.environment.processor or "?",
            "platform": one.environment.platform or "?",
            **one.environment.versions,
        }
        for one in pair
    ]


def _differing(key: str, title: str, found: Sequence[Mapping[str, str]]) -> Html:
    first, second = found
    rows = [
        (name, first.get(name, say.NONE), second.get(name, say.NONE))
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]
    if not rows:
        return section(key, title, remark("None."))
    caption = f"{say.plural(len(rows), 'difference')}"
    return section(key, title, table(("what", *_SIDES), rows, caption=caption))


def _warnings(pair: Pair) -> Html:
    items = [
        tag("li", f"{side} only: ", long_text(warning))
        for side, one, other in zip(_SIDES, pair, reversed(pair), strict=True)
        for warning in one.warnings[:50]
        if warning not in other.warnings
    ]
    inside = tag("ul", *items, class_="warnings") if items else remark("None.")
    return section("warnings", "Warnings of one run alone", inside)


def _grid(cards: Sequence[Html | None]) -> Part:
    found = [card for card in cards if card]
    return tag("div", *found, class_="grid") if found else None
