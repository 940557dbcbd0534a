"""Coverage of sparse vectors, and how well each stage finds known answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..export.manifest import Manifest
from ..export.manifest_sections import RerankRan
from ..retrieval.quality import ProbeFigures, QualityCard
from . import wording as say
from .charts import Bar, Whisker, bars, noted, whiskers
from .markup import Html, Part, section, table, tag

_MEASURES = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")


def card_of(manifest: Manifest) -> QualityCard | None:
    """Return the quality card, where there is one."""
    return manifest.fusion_run.quality_card if manifest.fusion_run else None


def coverage(manifest: Manifest) -> Html:
    """Return the share of chunks that have a sparse vector, by model."""
    rows = [
        Bar(
            label=run.sparse_model,
            value=run.coverage,
            told=f"{100 * run.coverage:.1f} %",
            tone=1 if run.coverage < 1 else 2,
        )
        for run in manifest.sparse_run or ()
    ]
    if not rows:
        return Html()
    picture = bars("coverage", "Chunks with a sparse vector", rows, most=1.0)
    return section("sparse", "Sparse coverage", tag("div", picture, class_="card"))


def quality(manifest: Manifest) -> Html:
    """Return each stage's figures with intervals, and what a stage gains."""
    card = card_of(manifest)
    title = "Search quality"
    if card is None:
        return section("quality", title, _means(manifest))
    parts: list[Part] = []
    cards = [found for found in (_stages(card), _gains(card)) if found]
    if cards:
        parts += [tag("div", *cards, class_="grid"), _table(card)]
    parts += [tag("p", remark, class_="remark") for remark in card.remarks[:20]]
    return section("quality", title, *parts)


def _stages(card: QualityCard) -> Html | None:
    rows = [
        Whisker(
            label=stage.stage,
            value=found.value,
            low=found.low,
            high=found.high,
            told=say.estimate(found),
            tone=number,
        )
        for number, stage in enumerate(card.stages)
        if (found := stage.ndcg_at_10) is not None
    ]
    if not rows:
        return None
    picture = whiskers("quality-stages", "nDCG@10 by stage", rows, low=0.0, high=1.0)
    return noted(picture, *_drawn(card))


def _drawn(card: QualityCard) -> Iterator[str]:
    kinds = ", ".join(f"{say.count(n)} {kind}" for kind, n in card.kinds.items())
    told = f" ({kinds})" if kinds else ""
    yield (
        f"Over {say.plural(card.probes, 'question')}{told} taken from the collection, "
        "whose answer is known. Bands are 95 % intervals; 1 is perfect."
    )


def _gains(card: QualityCard) -> Html | None:
    if not card.differences:
        return None
    rows = [
        Whisker(
            label=f"{found.stage} − {found.against}",
            value=found.better_by.value,
            low=found.better_by.low,
            high=found.better_by.high,
            told=f"{found.better_by.value:+.3f}, p {_p(found.p_value)}",
            tone=1 if found.harmful else 2,
        )
        for found in card.differences[:20]
    ]
    reach = max(max(abs(row.low), abs(row.high)) for row in rows)
    reach = next((edge for edge in (0.05, 0.1, 0.2, 0.5) if reach <= edge), 1.0)
    picture = whiskers(
        "quality-gains", "Gain in nDCG@10 of a stage", rows, low=-reach, high=reach
    )
    return noted(picture, "On the same questions. Left of the dashed line is worse.")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(card: QualityCard) -> Html:
    rows = [
        (found.stage, say.count(found.queries), *_cells(found)) for found in card.stages
    ]
    return table(
        ("stage", "questions", *_MEASURES),
        rows,
        caption="Means, with 95 % intervals",
        numbers=("questions", *_MEASURES),
    )


def _cells(found: ProbeFigures) -> tuple[str, ...]:
    every = (found.ndcg_at_10, found.mrr_at_10, found.recall_at_10, found.recall_at_100)
    return tuple(say.estimate(estimate) for estimate in every)


def _means(manifest: Manifest) -> Html | None:
    """Return what a manifest tells that has means alone."""
    rows = [
        (stage, *(f"{means[m]:.3f}" if m in means else say.NONE for m in _MEASURES))
        for stage, means in stage_means(manifest)
    ]
    if not rows:
        return None
    return table(
        ("stage", *_MEASURES),
        rows,
        caption="Means; this manifest has no intervals",
        numbers=_MEASURES,
    )


def stage_means(manifest: Manifest) -> Sequence[tuple[str, dict[str, float]]]:
    """Return measures by stage, of fusion and of rerank."""
    found = list(manifest.fusion_run.quality.items()) if manifest.fusion_run else []
    if isinstance(manifest.rerank_run, RerankRan):
        found += manifest.rerank_run.quality.items()
    return found
