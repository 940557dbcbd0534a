"""Pace, lengths of texts, batches and padding of the passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..export.manifest import Manifest
from ..export.manifest_sections import DenseRun, TimelinePass, TokenLengths
from . import wording as say
from .charts import Bar, Line, bars, columns, lines, noted
from .markup import Html, joined, section, tag

_FEW = 4
_LEFT_OUT = "This manifest has no figures over time: rates are means of a pass."


def throughput(manifest: Manifest) -> Html:
    """Return chunks a second over time, or a pass's means where no more is known."""
    pictures = list(_over_time(manifest))
    means = [
        Bar(
            label=run.model,
            value=run.chunks_per_second,
            told=f"{say.amount(run.chunks_per_second)} chunks/s",
        )
        for run in manifest.dense_run or ()
    ]
    if means:
        note = None if pictures else _LEFT_OUT
        title = "Mean of a dense pass, chunks a second"
        pictures.append(noted(bars("pace-mean", title, means), note))
    return section("pace", "Throughput", _grid(pictures))


def _over_time(manifest: Manifest) -> Iterator[Html]:
    passes = manifest.telemetry.timeline
    for stage in dict.fromkeys(one.stage for one in passes):
        same = [one for one in passes if one.stage == stage and _is_drawn(one)]
        if same:
            yield tag("div", _pace(stage, same[:8]), class_="card")


def _is_drawn(found: TimelinePass) -> bool:
    return found.stage in ("dense", "sparse", "rerank") and len(found.items) > 1


def _pace(stage: str, passes: Sequence[TimelinePass]) -> Html:
    unit = "queries" if stage == "rerank" else "chunks"
    begin = min(one.started for one in passes)
    drawn = []
    for number, one in enumerate(passes):
        width, items = _filled(one.width, one.items)
        rates = [finished / width for finished in items]
        drawn.append(
            Line(
                label=one.model or stage,
                start=one.started - begin,
                width=width,
                y=rates,
                tone=number,
            )
        )
    end = max(line.start + line.width * len(line.y) for line in drawn)
    top = max(max(line.y) for line in drawn)
    told = "; ".join(
        f"{line.label}: at most {say.amount(max(line.y))} {unit} a second"
        for line in drawn
    )
    return lines(
        f"pace-{stage}",
        f"{stage.capitalize()}: {unit} a second",
        drawn,
        told=told,
        x_ticks=[(0.0, "0 s"), (end / 2, say.time(end / 2)), (end, say.time(end))],
        y_told=[(0.0, "0"), (top / 2, say.amount(top / 2)), (top, say.amount(top))],
    )


def _filled(width: float, items: Sequence[int]) -> tuple[float, list[int]]:
    """Return slices joined until hardly one is empty: batches, not gaps, are seen.

    The last slice is left out where it is one of many: it is seldom whole.
    """
    found = list(items)
    while len(found) > _FEW and found.count(0) * 8 > len(found):
        found = [sum(found[at : at + 2]) for at in range(0, len(found), 2)]
        width *= 2
    return width, found[:-1] if len(found) > _FEW else found


def texts(manifest: Manifest) -> Html:
    """Return how long texts are, what became of long ones, batches and padding."""
    runs = manifest.dense_run or ()
    cards = [
        _lengths(number, run, run.token_lengths)
        for number, run in enumerate(runs)
        if run.token_lengths is not None
    ]
    told = [_long_texts(run) for run in runs if run.token_lengths is None]
    if runs:
        cards.append(_padding(runs))
    return section("texts", "Texts and batches", _grid(cards), *told)


def _lengths(number: int, run: DenseRun, lengths: TokenLengths) -> Html:
    places = len(lengths.counts)
    end = places * lengths.width
    ticks = [
        (place, say.count(int(place * lengths.width)))
        for place in (0, places / 2, places)
    ]
    longer = "+" if lengths.longest > end else ""
    ticks[-1] = (ticks[-1][0], ticks[-1][1] + longer)
    picture = columns(
        f"lengths-{number}",
        f"Tokens a chunk, {run.model}",
        lengths.counts,
        told=f"{say.count(sum(lengths.counts))} chunks; median "
        f"{say.count(lengths.median)} tokens, longest {say.count(lengths.longest)}",
        ticks=ticks,
        mark=run.max_tokens / lengths.width,
        mark_told=f"window {say.count(run.max_tokens)}",
    )
    summary = (
        f"Median {say.count(lengths.median)}, longest {say.count(lengths.longest)} "
        "tokens. "
    )
    return noted(picture, summary, _became(run))


def _long_texts(run: DenseRun) -> Html:
    return tag("p", f"{run.model}: ", _became(run), class_="remark")


def _became(run: DenseRun) -> str:
    lost = run.statistics.get("truncated_tokens")
    cut = run.statistics.get("truncated_chunks")
    if run.windows:
        return (
            f"{say.plural(run.chunks_in_windows, 'long chunk')} in "
            f"{say.plural(run.windows, 'window')} of at most "
            f"{say.count(run.max_tokens)} tokens."
        )
    if isinstance(lost, int) and isinstance(cut, int) and lost:
        return f"{say.plural(cut, 'chunk')} cut: {say.plural(lost, 'token')} are lost."
    if isinstance(lost, int):
        return "Nothing was cut."
    return "Whether texts were cut is not told."


def _padding(runs: Sequence[DenseRun]) -> Html:
    rows = [
        Bar(
            label=f"{run.model}",
            value=max(run.padding_ratio, 0.0),
            told=f"{run.padding_ratio:.2f} × tokens",
            mark=1.0,
            tone=2,
        )
        for run in runs
    ]
    told = "; ".join(f"{run.model}: {_batches(run)}" for run in runs)
    picture = bars("padding", "Computed positions over tokens (1 is none)", rows)
    return noted(picture, f"Batches: {told}.")


def _batches(run: DenseRun) -> str:
    sizes = run.batch_sizes
    if not sizes:
        return "sizes not told"
    low, high = min(sizes), max(sizes)
    rows = say.count(low) if low == high else f"{say.count(low)} to {say.count(high)}"
    batches = run.statistics.get("batches")
    number = f"{say.count(batches)} of " if isinstance(batches, int) else ""
    return f"{number}{rows} rows, {run.device}, {run.dtype}"


def _grid(cards: Sequence[Html]) -> Html | None:
    return tag("div", joined(cards), class_="grid") if cards else None
