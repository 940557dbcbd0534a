"""The quality card of a run: which stages it compares, and what it warns of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..retrieval.probes import Probe
from ..retrieval.quality import QualityCard, StageDifference, quality_card
from ..retrieval.ranking import rank_of
from ..search.results import FUSED, RERANKED
from ..stages.fusion import FusionResult
from ..stages.rerank import RerankResult

NO_QUESTION = (
    "No chunk of this collection asks a question to measure with: none begins with a "
    "telling heading, has a title of its own, or a documentation comment."
)
SWITCHED_OFF = "Probes are switched off (--no-probes), so nothing was measured."
QUERIES_RERANKED = "The given queries were reranked, not the probes."


def empty_card(reason: str, seed: int) -> QualityCard:
    """Return a card without figures that says why."""
    return quality_card({}, depths={}, seed=seed, remarks=[reason])


def card_of(
    probes: Sequence[Probe],
    judged: FusionResult,
    reranked: RerankResult | None,
    *,
    top_k: int,
    seed: int,
    remarks: Sequence[str] = (),
) -> QualityCard:
    """Return the figures of each leg, of fusion, and of what was reranked of it.

    `judged` ranks the probes; `reranked` some of them, to `top_k` places.
    """
    ranks: dict[str, dict[str, int | None]] = {}
    for found in judged.rankings:
        for stage, rank in found.answer_ranks().items():
            ranks.setdefault(stage, {})[found.query.query_id] = rank
    depths = dict.fromkeys(ranks, judged.depth)
    if reranked is not None and reranked.queries:
        ranks[RERANKED] = _reranked(reranked)
        depths[RERANKED] = top_k
    return quality_card(
        ranks,
        depths=depths,
        kinds={probe.query.query_id: probe.kind for probe in probes},
        pairs=_pairs(judged),
        seed=seed,
        remarks=remarks,
    )


def harm_warnings(
    card: QualityCard, *, primary: str, sparse: Sequence[str]
) -> Iterator[str]:
    """Yield what to be warned of: stages that make a search in this bundle worse.

    `primary` and `sparse` are the models whose rankings are fused.
    """
    cures: dict[tuple[str, str], str] = {
        (RERANKED, FUSED): "search with --stage fused, or build with --disable-rerank",
        (FUSED, primary): "search with --stage dense, or build with --disable-sparse",
        **{
            (FUSED, key): "search with --stage sparse, or give it more weight with "
            "--fusion"
            for key in sparse
        },
    }
    for found in card.differences:
        cure = cures.get((found.stage, found.against))
        if cure is not None and found.harmful:
            yield f"{_told(found)}: {cure}."


def _told(found: StageDifference) -> str:
    p_value = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    return (
        f"{found.stage} is worse than {found.against} by {-found.better_by.value:.3f} "
        f"{found.measure} on {found.queries} of this bundle's probes ({p_value})"
    )


def _reranked(result: RerankResult) -> dict[str, int | None]:
    return {
        one.query.query_id: rank_of(one.ranking, one.query.relevant_rows[0])
        for one in result.queries
    }


def _pairs(judged: FusionResult) -> Iterator[tuple[str, str]]:
    """Yield what is compared: results with what they were made of, legs with the first.

    Fusion of a single leg is that leg.
    """
    legs = judged.ranked_legs
    if len(judged.fused_legs) > 1:
        yield from ((FUSED, leg) for leg in judged.fused_legs)
    yield RERANKED, FUSED
    primary = judged.fused_legs[0]
    yield from ((leg, primary) for leg in legs if leg != primary)
