"""A CrossEncoder's word beside the fused score, instead of in its place.

    blend(weight=0.5, bound=3)     z(fused) + 0.5 * 3 * tanh(logit / 3)
    blend(weight=0.5)              z(fused) + 0.5 * logit

z scales the fused scores of one query's candidates to mean 0 and deviation 1. The bound
is how far a logit can count at most, so that one sure mistake cannot overturn the list.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..records import RankedList
from .ranking import Float64Array, ranked

_FORM = re.compile(r"\s*blend\s*\(([^()]*)\)\s*")
_OPTIONS = {"weight", "bound"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendConfig:
    """How much a logit counts beside a fused z-score; no bound means all of it.

    Raises:
        UsageError: a value out of range.
    """

    weight: float = 1.0
    bound: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UsageError(
                f"The weight of a blend must be zero or more, not {self.weight:g}."
            )
        if self.bound is not None and not (
            math.isfinite(self.bound) and self.bound > 0
        ):
            raise UsageError(
                f"The bound of a blend must be above zero, not {self.bound:g}."
            )

    def __str__(self) -> str:
        bound = "" if self.bound is None else f", bound={_plain(self.bound)}"
        return f"blend(weight={_plain(self.weight)}{bound})"

    @classmethod
    def parse(cls, text: str) -> BlendConfig:
        """Return the value that prints as `text`; options left out take defaults.

        Raises:
            UsageError: quoting what could not be read.
        """
        form = _FORM.fullmatch(text)
        parts = [part.partition("=") for part in form[1].split(",")] if form else []
        named = {name.strip(): value for name, sign, value in parts if sign}
        left = [part for part in parts if "".join(part).strip() and not part[1]]
        if form is None or left or set(named) - _OPTIONS:
            raise UsageError(
                f"'{text}' is not a blend.",
                cure="Write for example blend(weight=0.5, bound=3).",
            )
        try:
            values = {name: float(value) for name, value in named.items()}
        except ValueError:
            raise UsageError(f"'{text}' holds something that is no number.") from None
        return cls(weight=values.get("weight", 1.0), bound=values.get("bound"))

    def term(self, logits: Float64Array) -> Float64Array:
        """Return what logits add to the fused z-scores, in the same order."""
        if self.bound is None:
            return self.weight * logits
        return self.weight * self.bound * np.tanh(logits / self.bound)


def blend(
    fused: RankedList,
    cross: npt.NDArray[np.floating],
    config: BlendConfig | None,
    limit: int | None = None,
) -> RankedList:
    """Return the candidates in their new order, cut to `limit`.

    Shapes: `cross` [len(fused)], the logit of each row of `fused`. Without a
    configuration, or where all fused scores are equal, the logits alone decide.
    """
    logits = np.asarray(cross, dtype=np.float64)
    if config is None:
        return ranked(fused.rows, logits, limit)
    return ranked(fused.rows, _z_scores(fused.scores) + config.term(logits), limit)


def _z_scores(scores: Float64Array) -> Float64Array:
    deviation = float(scores.std()) if len(scores) else 0.0
    if deviation == 0.0 or scores[0] == scores[-1]:
        return np.zeros(len(scores))
    return (scores - float(scores.mean())) / deviation


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)
