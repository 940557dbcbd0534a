"""How well groups are ordered: by fusion alone, and with logits blended in.

A group has one relevant document, so with its rank r, nDCG@10 = 1 / log2(1 + r) for
r <= 10, else 0. Queries whose answer is not among the candidates count 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..records import Float32Array
from ..retrieval.blend import BlendConfig
from ..retrieval.ranking import Float64Array
from ..retrieval.significance import Estimate, estimates, paired_test
from .groups import Group

CUTOFF = 10
SCALES = tuple(float(scale) for scale in np.geomspace(0.1, 10, 41))
"""Scales of fused z-scores that are tried."""
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Weights of logits in a blend that are tried."""

Logits = Sequence[Float32Array]
"""For each group the logits of its documents."""


class Comparison(BaseModel):
    """What one way of ordering gains over another, in nDCG@10, on the same queries.

    `p` is that of the two-sided paired randomisation test.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    against: str
    gain: float
    p: float
    significant: bool

    @property
    def better(self) -> bool:
        """Whether it gains, and not by chance."""
        return self.gain > 0 and self.significant


def answer_rank(group: Group, logits: Float32Array, config: BlendConfig | None) -> int:
    """Return the answer's rank, from 1; ties go to the order of fusion.

    Shapes: `logits` [documents]. Without a configuration logits alone decide.
    """
    found = np.asarray(logits, dtype=np.float64)
    if config is not None:
        found = np.array(group.fused_z) + config.term(found)
    order = np.lexsort((np.array(group.ranks), -found))
    return int(np.flatnonzero(order == 0)[0]) + 1


def fused_ranks(groups: Sequence[Group]) -> list[int]:
    """Return the answers' ranks in the fused lists."""
    return [group.ranks[0] for group in groups]


def blended_ranks(
    groups: Sequence[Group], logits: Logits, config: BlendConfig | None
) -> list[int]:
    """Return the answers' ranks with logits blended in."""
    return [
        answer_rank(group, scores, config)
        for group, scores in zip(groups, logits, strict=True)
    ]


def ndcg(ranks: Sequence[int | None], missed: int = 0) -> Float64Array:
    """Return float64 [ranks + missed]: nDCG@10 of each query.

    `missed` queries, and those without a rank, have no answer in their lists.
    """
    found = np.array([np.inf if rank is None else rank for rank in ranks], dtype=float)
    gains = np.where(found <= CUTOFF, 1 / np.log2(1 + found), 0.0)
    return np.concatenate([gains, np.zeros(missed)])


def choose_blend(
    groups: Sequence[Group],
    logits: Logits,
    bound: float | None,
    weights: Sequence[float] = WEIGHTS,
) -> BlendConfig:
    """Return the blend that orders groups best; of equals that with less weight."""
    tried = [BlendConfig(weight=weight, bound=bound) for weight in sorted(weights)]
    means = [float(ndcg(blended_ranks(groups, logits, one)).mean()) for one in tried]
    return tried[int(np.argmax(np.round(means, 12)))]


def best_scale(groups: Sequence[Group]) -> float:
    """Return the scale of fused z-scores whose softmax tells the answers best.

    That is the one with the least mean cross-entropy; logits that are added to scores
    so scaled are log-odds, and so are the scores.
    """
    return min(SCALES, key=lambda scale: _loss(groups, scale))


def _loss(groups: Sequence[Group], scale: float) -> float:
    scores = [scale * np.array(group.fused_z) for group in groups]
    return float(np.mean([np.logaddexp.reduce(one) - one[0] for one in scores]))


def estimate(figures: Mapping[str, Float64Array], seed: int = 0) -> dict[str, Estimate]:
    """Return the mean of each stage's figures with its 95 % interval.

    Shapes: each [queries], the same queries.
    """
    columns = np.stack(list(figures.values()), axis=1)
    return dict(zip(figures, estimates([columns], seed), strict=True))


def compare(
    figures: Mapping[str, Float64Array], stage: str, against: str, seed: int = 0
) -> Comparison:
    """Return what `stage` gains over `against`."""
    differences = figures[stage] - figures[against]
    p = paired_test([differences], seed=seed)
    return Comparison(
        stage=stage,
        against=against,
        gain=float(differences.mean()),
        p=p.value,
        significant=p.significant,
    )
