"""The quality card of a run as tables: figures by stage, and how stages differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..export.manifest import Manifest
from ..export.manifest_sections import FusionRun, RerankRan
from ..retrieval.quality import ProbeFigures, QualityCard, StageDifference
from ..retrieval.significance import Estimate
from ..search.results import FUSED
from .output import Sheet, count

_FIGURES = ("probes", "nDCG@10", "95 %", "MRR@10", "R@10", "R@100")
_DIFFERENCE = ("probes", "gain", "95 %", "p")
_NONE = "-"


def quality_sheet(manifests: Sequence[Manifest]) -> Sheet:
    """Return every stage's figures; fusion's also by what asked, if that is mixed.

    Columns in which there is nothing are left out.
    """
    columns = ("collection", "stage", *_FIGURES)
    rows = [
        (manifest.collection, *row)
        for manifest in manifests
        for row in _figures(manifest)
    ]
    filled = [
        place
        for place, cells in enumerate(zip(*rows, strict=True))
        if any(cell != _NONE for cell in cells)
    ]
    return Sheet(
        title="Search quality, by questions whose answer is known",
        columns=tuple(columns[place] for place in filled),
        rows=tuple(tuple(row[place] for place in filled) for row in rows),
        numbers=_FIGURES,
    )


def differences_sheet(manifests: Sequence[Manifest]) -> Sheet:
    """Return what stages gain over those they are made of, on the same probes."""
    return Sheet(
        title="Gain of a stage over another in nDCG@10, on the same questions",
        columns=("collection", "stage", "over", *_DIFFERENCE),
        rows=tuple(
            (manifest.collection, *_difference(found))
            for manifest in manifests
            if (card := _card(manifest)) is not None
            for found in card.differences
        ),
        numbers=_DIFFERENCE,
    )


def probes_told(manifest: Manifest) -> str:
    """Return where the questions were taken from, and what bounds their figures."""
    card = _card(manifest)
    if card is None:
        return ""
    kinds = ", ".join(f"{count(n)} {kind}" for kind, n in card.kinds.items())
    drawn = [f"{count(card.probes)} drawn: {kinds}"] if kinds else []
    return "; ".join([*drawn, *card.remarks])


def _card(manifest: Manifest) -> QualityCard | None:
    return manifest.fusion_run.quality_card if manifest.fusion_run else None


def _figures(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    card = _card(manifest)
    if card is None:
        yield from _without_card(manifest)
        return
    for stage in card.stages:
        yield (stage.stage, *_cells(stage))
    parts = [part for part in card.by_kind if part.stage == FUSED]
    for part in parts if len(parts) > 1 else ():
        yield (f"{part.stage}, {part.kind}", *_cells(part))


def _cells(found: ProbeFigures) -> tuple[str, ...]:
    return (
        count(found.queries),
        _mean(found.ndcg_at_10),
        _range(found.ndcg_at_10),
        _mean(found.mrr_at_10),
        _mean(found.recall_at_10),
        _mean(found.recall_at_100),
    )


def _mean(estimate: Estimate | None) -> str:
    return _NONE if estimate is None else f"{estimate.value:.3f}"


def _range(estimate: Estimate | None) -> str:
    return _NONE if estimate is None else f"{estimate.low:.2f}-{estimate.high:.2f}"


def _difference(found: StageDifference) -> tuple[str, ...]:
    gain = found.better_by
    return (
        found.stage,
        found.against,
        count(found.queries),
        f"{gain.value:+.3f}",
        f"{gain.low:+.3f} to {gain.high:+.3f}",
        "<.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
    )


def _without_card(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """Yield what a manifest tells that has means alone."""
    runs: list[FusionRun | RerankRan] = []
    if manifest.fusion_run is not None:
        runs.append(manifest.fusion_run)
    if isinstance(manifest.rerank_run, RerankRan):
        runs.append(manifest.rerank_run)
    for run in runs:
        for stage, means in run.quality.items():
            shown = [
                f"{means[name]:.3f}" if name in means else _NONE
                for name in ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")
            ]
            yield (stage, count(run.queries), shown[0], _NONE, *shown[1:])
