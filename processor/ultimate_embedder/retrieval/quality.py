"""How well known answers are found, per stage, with intervals: the bundle's card.

Each probe has one relevant row, so with its rank r (from 1, None: not found):
MRR@10 = mean of 1/r for r <= 10; nDCG@10 = mean of 1/log2(1 + r) for r <= 10;
Recall@k = share of probes with r <= k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from .probes import PROBES
from .significance import BOOTSTRAP_SAMPLES, CONFIDENCE, Estimate

_Ranks = npt.NDArray[np.float64]


class ProbeFigures(BaseModel):
    """One stage's figures. A figure that the list is too short for is absent."""

    model_config = ConfigDict(frozen=True)

    stage: str
    queries: int
    depth: int
    mrr_at_10: Estimate | None = None
    ndcg_at_10: Estimate | None = None
    recall_at_10: Estimate | None = None
    recall_at_100: Estimate | None = None


class QualityCard(BaseModel):
    """Figures of every stage that ran, over probes drawn with `seed`."""

    model_config = ConfigDict(frozen=True)

    seed: int
    probes: int
    wanted: int = PROBES
    stages: tuple[ProbeFigures, ...]

    def stage(self, name: str) -> ProbeFigures | None:
        """Return one stage's figures, or None where it did not run."""
        return next((found for found in self.stages if found.stage == name), None)


def figures(
    stage: str, ranks: Sequence[int | None], *, depth: int, seed: int = 0
) -> ProbeFigures:
    """Return the figures for the ranks at which the answers were found.

    `depth` is how long the ranked lists may be: a measure that looks further down is
    left out. With no probe there is no figure.
    """
    found = np.array([np.inf if rank is None else rank for rank in ranks], dtype=float)
    estimates = {
        name: _estimate(measure(found), seed)
        for name, (cutoff, measure) in _MEASURES.items()
        if cutoff <= depth and len(found)
    }
    return ProbeFigures(stage=stage, queries=len(found), depth=depth, **estimates)


def quality_card(
    ranks: Mapping[str, Sequence[int | None]],
    *,
    depths: Mapping[str, int],
    seed: int = 0,
) -> QualityCard:
    """Return the card of the stages in `ranks`, in their order."""
    stages = tuple(
        figures(stage, found, depth=depths[stage], seed=seed)
        for stage, found in ranks.items()
    )
    return QualityCard(
        seed=seed, probes=max((s.queries for s in stages), default=0), stages=stages
    )


def _within(ranks: _Ranks, cutoff: int) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = ranks <= cutoff
    return inside


_MEASURES: Mapping[str, tuple[int, Callable[[_Ranks], _Ranks]]] = {
    "mrr_at_10": (10, lambda ranks: np.where(_within(ranks, 10), 1 / ranks, 0.0)),
    "ndcg_at_10": (
        10,
        lambda ranks: np.where(_within(ranks, 10), 1 / np.log2(1 + ranks), 0.0),
    ),
    "recall_at_10": (10, lambda ranks: _within(ranks, 10).astype(float)),
    "recall_at_100": (100, lambda ranks: _within(ranks, 100).astype(float)),
}


def _estimate(values: _Ranks, seed: int) -> Estimate:
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.integers(0, len(values), (BOOTSTRAP_SAMPLES, len(values)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values[drawn].mean(axis=1), [tail, 100 - tail])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))
