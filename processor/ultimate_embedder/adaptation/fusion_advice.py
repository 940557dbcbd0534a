"""Whether other weights of a bundle's fusion would find its probes better.

The last list's weight is multiplied by each of a few factors. The best on some probes
is judged on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..records import RankedList
from ..retrieval.fusion import FusionConfig, fuse
from ..retrieval.ranking import Float64Array, rank_of
from ..retrieval.significance import Estimate
from .judging import Comparison, compare, estimate, ndcg

FACTORS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
CURRENT, OTHER = "fused", "other"


@dataclass(frozen=True, slots=True)
class ProbeLists:
    """A probe's rankings by the legs that are fused, and the row that answers."""

    lists: tuple[RankedList, ...]
    answer: int


class FusionAdvice(BaseModel):
    """The fusion there is and the best other one, on probes not used to choose it.

    `other` is absent where none did better on the probes used to choose.
    """

    model_config = ConfigDict(frozen=True)

    current: str
    other: str | None = None
    stages: dict[str, Estimate]
    comparison: Comparison | None = None

    @property
    def expression(self) -> str | None:
        """What to pass to `--fusion`; None: keep what there is."""
        kept = self.comparison is None or not self.comparison.better
        return None if kept else self.other


def advise(
    config: FusionConfig,
    choosing: Sequence[ProbeLists],
    judging: Sequence[ProbeLists],
    depth: int,
    seed: int = 0,
) -> FusionAdvice:
    """Return the better of two fusions; chosen and judged on different probes."""
    tried = fusion_grid(config, len(judging[0].lists))
    means = [float(_figures(choosing, one, depth).mean()) for one in tried]
    best = tried[int(np.argmax(np.round(means, 12)))]
    figures = {CURRENT: _figures(judging, config, depth)}
    if best == config:
        return FusionAdvice(current=str(config), stages=estimate(figures, seed))
    figures[OTHER] = _figures(judging, best, depth)
    return FusionAdvice(
        current=str(config),
        other=str(best),
        stages=estimate(figures, seed),
        comparison=compare(figures, OTHER, CURRENT, seed),
    )


def fusion_grid(config: FusionConfig, legs: int) -> list[FusionConfig]:
    """Return the fusion as it is, then with other weights of its last list.

    A fusion of one list, or one that takes no weights, has no others.
    """
    if legs < 2 or config.method == "dbsf":
        return [config]
    *others, last = config.weights_for(legs)
    return [
        config,
        *(
            replace(config, weights=(*others, float(f"{last * factor:.3g}")))
            for factor in FACTORS
            if factor != 1
        ),
    ]


def _figures(
    probes: Sequence[ProbeLists], config: FusionConfig, depth: int
) -> Float64Array:
    return ndcg(
        [rank_of(fuse(probe.lists, config, depth), probe.answer) for probe in probes]
    )
