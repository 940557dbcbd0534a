"""An evaluation as tables: for a terminal, for a pipe, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from ..evaluation.measures import MEASURES, PRIMARY
from ..evaluation.report import (
    CardAgreement,
    Comparison,
    Evaluation,
    MeanReport,
    SetReport,
    StageFigures,
    StageTable,
)
from ..retrieval.significance import ALPHA, Estimate
from ..search.results import FUSED, RERANKED
from .output import Sheet, count

_COLUMNS = ("stage", "n", PRIMARY, "95 %", "MRR@10", "R@10", "R@100", "judged")
_SAME_QUERIES = "fused, same queries"
LEGEND = (
    "+ or -: fused is better or worse than the best single ranking, reranked than",
    f"fused (paired randomisation test over the queries, p < {ALPHA:g}).",
)


def sheets(evaluation: Evaluation) -> Iterator[tuple[Sheet, list[str]]]:
    """Yield a table for each set and each mean, with the lines below it."""
    for one in evaluation.sets:
        title = (
            f"{one.label}: {count(one.documents)} documents, {count(one.chunks)} "
            f"chunks, {count(one.queries)} queries"
        )
        below = [*_remarks(one), *_set_lines(one)]
        yield _sheet(title, one), below
    for mean in evaluation.means:
        yield _sheet(_mean_title(mean), mean), list(_differences(mean))


def markdown(evaluation: Evaluation) -> str:
    """Return everything as one Markdown table, with intervals and the legend."""
    names = [name for name in MEASURES if name != PRIMARY]
    lines = [
        "| set | stage | queries | nDCG@10 [95 %] | " + " | ".join(names) + " |",
        "|---|---|---:|---|" + "---:|" * len(names),
    ]
    reports: list[SetReport | MeanReport] = [*evaluation.sets, *evaluation.means]
    for one in reports:
        title = one.label if isinstance(one, SetReport) else _mean_title(one)
        for name, figures, mark in _rows(one):
            values = figures.measures
            cells = [title, name, count(figures.queries)]
            cells.append(f"{_interval(values[PRIMARY])}{mark and ' ' + mark}")
            cells += [_figure(values[measure].value) for measure in names]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
            title = ""
    settings = ", ".join(
        f"{key} {_setting(value)}" for key, value in evaluation.settings.items()
    )
    lines += ["", *LEGEND, "", f"Settings: {settings}."]
    if total := evaluation.card_agreement:
        lines += ["", card_line(total)]
    return "\n".join(lines) + "\n"


def card_line(card: CardAgreement) -> str:
    """Return how often a card made from probes has the judged order of two stages."""
    line = (
        f"Quality card: the judged order of two stages in {card.agreed} of "
        f"{card.pairs} pairs"
    )
    sure = f"; in {card.sure_agreed} of the {card.sure_pairs} that differ significantly"
    return f"{line}{sure if card.sure_pairs else ''}."


def _sheet(title: str, one: SetReport | MeanReport) -> Sheet:
    return Sheet(
        title=title,
        columns=_COLUMNS,
        rows=tuple(_cells(*row) for row in _rows(one)),
        numbers=_COLUMNS[1:],
    )


def _rows(one: SetReport | MeanReport) -> Iterator[tuple[str, StageFigures, str]]:
    """Yield name, figures and mark of each row.

    Where only some queries were reranked, fused stands a second time, over those.
    """
    for figures in one.all_stages.stages:
        compared = _fused_against_best(one.all_stages)
        mark = _mark(compared) if figures.stage == FUSED else ""
        yield _short(figures.stage), figures, mark
    if one.reranked is None:
        return
    fused, reranked = one.reranked.figures(FUSED), one.reranked.figures(RERANKED)
    if fused and fused != one.all_stages.figures(FUSED):
        yield _SAME_QUERIES, fused, ""
    if reranked:
        yield RERANKED, reranked, _mark(one.reranked.compared(RERANKED, FUSED))


def _cells(name: str, figures: StageFigures, mark: str) -> tuple[str, ...]:
    values = figures.measures
    primary = values[PRIMARY]
    rest = [
        _figure(values[measure].value) for measure in MEASURES if measure != PRIMARY
    ]
    return (
        name,
        count(figures.queries),
        f"{_figure(primary.value)}{mark or ' '}",
        f"{_figure(primary.low)}-{_figure(primary.high)}",
        *rest,
    )


def _remarks(one: SetReport) -> Iterator[str]:
    unit = {"chunk_id": "chunks", "source": "sources", "filename": "file names"}
    if one.treatment is None:
        yield f"Judged ids are taken as {unit[one.unit]}."
    yield from one.notes
    for stage, why in one.missing.items():
        yield f"No {stage} ranking: {why}"


def _set_lines(one: SetReport) -> Iterator[str]:
    yield from _differences(one)
    if one.card is not None:
        yield card_line(one.card)


def _differences(one: SetReport | MeanReport) -> Iterator[str]:
    found = [_fused_against_best(one.all_stages)]
    if one.reranked is not None:
        found.append(one.reranked.compared(RERANKED, FUSED))
    for compared in found:
        if compared is not None:
            yield (
                f"{compared.stage} against {_short(compared.against)}: "
                f"{compared.better_by:+.3f}, p {_p_value(compared.p_value)} "
                f"({count(compared.queries)} queries)."
            )


def _fused_against_best(table: StageTable) -> Comparison | None:
    best = table.best_leg()
    return table.compared(FUSED, best) if best else None


def _mark(compared: Comparison | None) -> str:
    if compared is None or not compared.significant:
        return ""
    return "+" if compared.better_by > 0 else "-"


def _mean_title(mean: MeanReport) -> str:
    treated = f", {mean.treatment}" if mean.treatment else ""
    return f"mean of {len(mean.sets)} sets{treated}"


def _short(stage: str) -> str:
    return stage.partition(":")[2] or stage


def _figure(value: float) -> str:
    """Return a share without the zero before the point: `.492`, `1.00`."""
    return f"{value:.3f}".removeprefix("0") if value < 1 else "1.00"


def _interval(value: Estimate) -> str:
    low, high = _figure(value.low), _figure(value.high)
    return f"{_figure(value.value)} [{low}, {high}]"


def _p_value(value: float) -> str:
    return "< .001" if value < 0.001 else _figure(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _setting(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
