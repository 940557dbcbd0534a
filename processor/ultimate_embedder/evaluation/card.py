"""Does a bundle's quality card, made without judgements, order stages as judges do?

Stages that ranked the same probes are compared by their means. What was reranked may be
some of the probes, so there the card's own paired difference counts, and a pair that it
does not hold is left out.
"""

from __future__ import annotations

from itertools import combinations

from ..export.manifest import Manifest
from ..export.manifest_sections import FusionRun
from ..search.results import FUSED, RERANKED, dense_name, sparse_name
from .measures import PRIMARY
from .report import CardAgreement, StageTable


def card_agreement(
    manifest: Manifest, *tables: StageTable | None
) -> CardAgreement | None:
    """Return the agreement over all pairs of stages; None where there is no card.

    Each pair is taken from the first table that has both stages.
    """
    card = _card(manifest)
    if not card or manifest.fusion_run is None:
        return None
    pairs = agreed = sure_pairs = sure_agreed = 0
    for one, other in combinations(card, 2):
        judged = next(
            (found for t in tables if t and (found := t.compared(one, other))), None
        )
        better_by = _better_by(manifest.fusion_run, card, one, other)
        if judged is None or judged.better_by == 0 or better_by is None:
            continue
        same = better_by * judged.better_by > 0
        pairs, agreed = pairs + 1, agreed + same
        if judged.significant:
            sure_pairs, sure_agreed = sure_pairs + 1, sure_agreed + same
    return CardAgreement(
        probes=manifest.fusion_run.queries,
        pairs=pairs,
        agreed=agreed,
        sure_pairs=sure_pairs,
        sure_agreed=sure_agreed,
        card=card,
    )


def _better_by(
    run: FusionRun, card: dict[str, float], one: str, other: str
) -> float | None:
    """Return by how much the card finds `one` better; None: it does not say."""
    if RERANKED not in (one, other):
        return card[one] - card[other]
    found = run.quality_card and run.quality_card.difference(RERANKED, FUSED)
    if {one, other} != {RERANKED, FUSED} or not found:
        return None
    value = found.better_by.value
    return value if one == RERANKED else -value


def _card(manifest: Manifest) -> dict[str, float]:
    """Return the card's nDCG@10 by stage, under the names of the evaluation."""
    run = manifest.fusion_run
    if run is None:
        return {}
    dense = {one.model: dense_name(one.model) for one in manifest.dense_run or ()}
    sparse = {
        one.sparse_model: sparse_name(one.sparse_model)
        for one in manifest.sparse_run or ()
    }
    names = {**dense, **sparse, FUSED: FUSED, RERANKED: RERANKED}
    return {
        names[stage]: figures[PRIMARY]
        for stage, figures in run.quality.items()
        if stage in names and PRIMARY in figures
    }
