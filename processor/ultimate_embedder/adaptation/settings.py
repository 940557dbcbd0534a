"""Every number that training depends on, in one value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Hyper-parameters and the seed; equal values and data give equal weights.

    A step takes `shards` times `queries` groups, each with `negatives` documents beside
    the answer, `hard_taken` of them among its first `hard`. Shards are computed apart
    and their gradients averaged, so that a shard a core changes no figure.
    `learning_rate` rises for `warm_up` steps and falls linearly to the share `floor` of
    itself. `bound` is the most a logit can count; `alone` weighs how well logits order
    by themselves, which starts as an imitation of the fused scores (softmax of
    `imitation` times z; to the share `imitated` at first) and moves to the answer.
    `scale` is what fused scores are multiplied by at first. Every `check_every` steps
    the groups held out are looked at; after `patience` such looks without a gain
    training ends. The weights that did best on them are kept, or the last ones where
    `keeps` says so.

    Raises:
        UsageError: a number out of range.
    """

    seed: int = 0
    steps: int = 2000
    rank: int = 32
    first_layer: int = 2
    shards: int = 2
    queries: int = 4
    negatives: int = 7
    hard: int = 12
    hard_taken: int = 4
    max_tokens: int = 144
    learning_rate: float = 4e-4
    warm_up: int = 50
    floor: float = 0.02
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    scale_rate: float = 0.01  # learning rate of the fused scores' scale
    bound: float = 4.0
    alone: float = 0.5
    imitation: float = 1.5
    imitated: float = 1.0
    scale: float = 1.0
    check_every: int = 200
    patience: int = 4
    keeps: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        """Check that the numbers make sense together."""
        counts = {
            name: getattr(self, name)
            for name in (
                *("steps", "rank", "shards", "queries", "negatives", "hard"),
                *("max_tokens", "check_every", "patience", "warm_up"),
            )
        }
        for name, value in counts.items():
            if value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}.")
        if not 0 <= self.hard_taken <= self.negatives:
            raise UsageError(
                f"hard_taken must lie in 0..{self.negatives}, not {self.hard_taken}."
            )
        for name in ("learning_rate", "bound", "clip", "scale_rate", "scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} must be above zero, not {value}.")

    @property
    def groups_a_step(self) -> int:
        """How many groups one step takes."""
        return self.shards * self.queries

    @property
    def pairs_a_step(self) -> int:
        """How many (query, document) pairs one step computes."""
        return self.groups_a_step * (1 + self.negatives)

    def rate(self, step: int) -> float:
        """Return the share of the learning rate at a step, counted from 0."""
        rising = min(1.0, (step + 1) / self.warm_up)
        return rising * max(self.floor, 1 - step / self.steps)

    def imitation_share(self, step: int) -> float:
        """Return how much of the loss of logits alone is imitation: down to 0.1."""
        return max(0.1, self.imitated - 3 * step / self.steps)
