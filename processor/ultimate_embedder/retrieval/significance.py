"""How sure a mean and a difference are: bootstrap intervals, a paired test.

The paired randomisation test (Fisher 1935; for retrieval Smucker, Allan, Carterette,
CIKM 2007) asks how often a difference of means as large as the one seen arises when
the two stages swap their figures on each query by the toss of a coin.

Both work on a mean over one set's queries and on a mean over sets of such means, which
is a weighted mean over all queries: a query of set s weighs 1 / (sets * queries of s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from .ranking import Float64Array

BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95
DRAWS = 10_000
ALPHA = 0.05

_BLOCK = 500  # draws at a time, so that the signs of many queries stay in memory
_ROUNDING = 1e-12  # sums in another order differ by less


class Estimate(BaseModel):
    """A mean with its 95 % bootstrap interval (percentiles, Efron 1979)."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class PValue:
    """Two-sided. `exact`: every assignment of signs was counted, none was drawn."""

    value: float
    exact: bool

    @property
    def significant(self) -> bool:
        """Whether it lies below 0.05."""
        return self.value < ALPHA


def estimates(sets: Sequence[Float64Array], seed: int = 0) -> list[Estimate]:
    """Return the mean over sets of each column's mean, with a 95 % interval.

    Shapes: each of `sets` is [queries, columns], at least one query. Queries are drawn
    anew within each set (percentile bootstrap, Efron 1979), the same for all columns.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = np.zeros((BOOTSTRAP_SAMPLES, sets[0].shape[1]))
    for values in sets:
        size = len(values)
        times = generator.multinomial(size, np.full(size, 1 / size), BOOTSTRAP_SAMPLES)
        drawn += times @ values / size
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn / len(sets), [tail, 100 - tail], axis=0)
    means = np.mean([values.mean(axis=0) for values in sets], axis=0)
    return [
        Estimate(value=float(mean), low=float(below), high=float(above))
        for mean, below, above in zip(means, low, high, strict=True)
    ]


def paired_test(
    differences: Sequence[Float64Array], *, draws: int = DRAWS, seed: int = 0
) -> PValue:
    """Return how likely a mean this far from 0 is if the two stages are alike.

    Shapes: `differences` [queries] for each set. Queries without a difference change
    nothing, so few others are enumerated; else signs are drawn, and the assignment
    that was seen counts as one of the draws.
    """
    weighted = np.concatenate([part / len(part) for part in differences])
    weighted = weighted[weighted != 0]
    seen = abs(float(weighted.sum())) - _ROUNDING * float(np.abs(weighted).sum())
    count = len(weighted)
    if 2**count <= draws:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        extreme = int(np.count_nonzero(np.abs(signs @ weighted) >= seen))
        return PValue(extreme / 2**count, exact=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    extreme = 0
    for start in range(0, draws, _BLOCK):
        shape = (min(_BLOCK, draws - start), count)
        tossed = 1.0 - 2.0 * generator.integers(0, 2, shape, dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(tossed @ weighted) >= seen))
    return PValue((1 + extreme) / (1 + draws), exact=False)


def paired_randomisation(
    a: Sequence[float], b: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> float:
    """Return the two-sided p of the mean of `a - b`, figures of the same queries.

    Raises:
        ValueError: there is no query, or their numbers differ.
    """
    return paired_test([_differences(a, b)], draws=draws, seed=seed).value


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, seed: int) -> Estimate:
    """Return the mean of `a - b` with its 95 % interval, figures of the same queries.

    Raises:
        ValueError: there is no query, or their numbers differ.
    """
    (found,) = estimates([_differences(a, b)[:, None]], seed)
    return found


def _differences(a: Sequence[float], b: Sequence[float]) -> Float64Array:
    if not len(a) or len(a) != len(b):
        raise ValueError(f"cannot pair {len(a)} figures with {len(b)}")
    differences: Float64Array = np.subtract(a, b, dtype=np.float64)
    return differences
