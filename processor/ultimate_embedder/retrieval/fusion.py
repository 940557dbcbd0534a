"""One ranking out of several: pure functions over ranked lists.

Four methods, each a value that prints as something to paste and parses back:

    rrf(k=60, weights=1:1)            sum of w / (k + rank), ranks from 1
                                      (Cormack, Clarke, Büttcher, SIGIR 2009)
    qdrant-rrf(k=2, weights=1:1)      sum of 1 / (rank / w + k - 1): what Qdrant does
    dbsf()                            each list scaled by its mean and deviation, summed
    sum(scale=minmax, weights=1:1)    weighted sum of scores: scale minmax, zscore, raw

In a sum, a row that a list does not hold counts as that list's last: its true score is
at most that. A list that ends because nothing else was found has a last score of 0.
`raw` adds scores as they are, so that its weights say how many points of one list are
worth one of another (Bruch, Gai, Ingber, TOIS 2023, call the family convex combination,
and find it better than RRF on most collections).

With weights of 1 the paper's constant k is Qdrant's k + 1: 60 there is 61 here. With
other weights the two differ: Qdrant divides the rank by the weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import numpy as np

from ..errors import UsageError
from ..records import Int64Array, RankedList
from .ranking import Float64Array, ranked

Method = Literal["rrf", "qdrant-rrf", "dbsf", "sum"]
Scale = Literal["minmax", "zscore", "raw"]

_NEUTRAL = 0.5  # where a list gives no spread to scale by (Qdrant's choice for DBSF)
_FORM = re.compile(r"\s*([a-z-]+)\s*\(([^()]*)\)\s*")
_DEFAULT_K = {"rrf": 60.0, "qdrant-rrf": 2.0}
_OPTIONS = {
    "rrf": {"k", "weights"},
    "qdrant-rrf": {"k", "weights"},
    "dbsf": set[str](),
    "sum": {"scale", "weights"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """A fusion method with its parameters; no weights means all equal.

    `k` belongs to the two reciprocal-rank methods, `scale` to `sum`; `dbsf` has none.

    Raises:
        UsageError: a value out of range or one the method does not take.
    """

    method: Method = "rrf"
    k: float = 60.0
    weights: tuple[float, ...] = ()
    scale: Scale = "minmax"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UsageError(
                f"No fusion method is called '{self.method}'.",
                cure=f"Known: {', '.join(get_args(Method))}.",
            )
        if self.scale not in get_args(Scale):
            raise UsageError(
                f"Scale must be {' or '.join(get_args(Scale))}, not '{self.scale}'."
            )
        lowest = 1.0 if self.method == "qdrant-rrf" else 0.0
        if not (math.isfinite(self.k) and self.k >= lowest):
            raise UsageError(f"k must be at least {lowest:g}, not {self.k:g}.")
        if any(not math.isfinite(w) or w < 0 for w in self.weights) or (
            self.weights and not any(self.weights)
        ):
            raise UsageError(
                f"Weights must be zero or more, one above zero, not {self.weights}."
            )
        if self.method == "dbsf" and self.weights:
            raise UsageError("dbsf takes no weights.")

    def __str__(self) -> str:
        options: list[str] = []
        if self.method in _DEFAULT_K:
            options.append(f"k={_plain(self.k)}")
        if self.method == "sum":
            options.append(f"scale={self.scale}")
        if self.weights:
            options.append("weights=" + ":".join(_plain(w) for w in self.weights))
        return f"{self.method}({', '.join(options)})"

    @classmethod
    def parse(cls, text: str) -> FusionConfig:
        """Return the value that prints as `text`; options left out take defaults.

        Raises:
            UsageError: quoting what could not be read.
        """
        form = _FORM.fullmatch(text)
        if form is None or form[1] not in _OPTIONS:
            raise UsageError(
                f"'{text}' is not a fusion method.",
                cure="Write for example rrf(k=60, weights=1:1) or dbsf().",
            )
        method = cast(Method, form[1])
        options = _options(form[2], text)
        unknown = sorted(set(options) - _OPTIONS[method])
        if unknown:
            raise UsageError(f"{method} does not take {', '.join(unknown)}: '{text}'.")
        try:
            return cls(
                method=method,
                k=float(options.get("k", _DEFAULT_K.get(method, 60.0))),
                weights=tuple(
                    float(w) for w in options.get("weights", "").split(":") if w
                ),
                scale=cast(Scale, options.get("scale", "minmax")),
            )
        except ValueError:
            raise UsageError(f"'{text}' holds something that is no number.") from None

    def for_legs(self, legs: int) -> FusionConfig:
        """Return this fusion for so many lists; weights of others say nothing there."""
        if self.weights and len(self.weights) != legs:
            return replace(self, weights=())
        return self

    def weights_for(self, legs: int) -> tuple[float, ...]:
        """Return one weight per list.

        Raises:
            UsageError: when another number of weights was set.
        """
        if not self.weights:
            return (1.0,) * legs
        if len(self.weights) != legs:
            weights = "weight" if len(self.weights) == 1 else "weights"
            lists = "ranked list" if legs == 1 else "ranked lists"
            raise UsageError(
                f"{self} has {len(self.weights)} {weights} for {legs} {lists}."
            )
        return self.weights


RRF = FusionConfig()
DEFAULT_FUSION = FusionConfig(method="sum", scale="zscore", weights=(0.7, 0.3))
"""Dense and BM25 for a dense model whose scores nobody has weighed against BM25's."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a sum reads one list: a score adds `factor * (score - center) + shift`.

    `last` is the score that counts for a row which the list does not hold.
    """

    factor: float
    center: float
    shift: float
    last: float

    def points(self, scores: Float64Array) -> Float64Array:
        """Return what scores add to the sum."""
        return self.factor * (scores - self.center) + self.shift


def fuse(
    lists: Sequence[RankedList],
    config: FusionConfig = RRF,
    limit: int | None = None,
) -> RankedList:
    """Return one ranking of every row that stands in a list; ties by row.

    Raises:
        UsageError: the weights do not match the number of lists.
    """
    weights = config.weights_for(len(lists))
    if config.method == "sum":
        scaled = scalings(lists, config)
        parts = [s.points(r.scores) for s, r in zip(scaled, lists, strict=True)]
        absent = [float(s.points(np.array([s.last]))[0]) for s in scaled]
    else:
        contribute = _METHODS[config.method]
        parts = [
            contribute(ranking, weight, config)
            for ranking, weight in zip(lists, weights, strict=True)
        ]
        absent = [0.0] * len(lists)
    return _merge([r.rows for r in lists], parts, absent, limit)


def scalings(lists: Sequence[RankedList], config: FusionConfig) -> tuple[Scaling, ...]:
    """Return how the method `sum` reads each list.

    Raises:
        UsageError: the weights do not match the number of lists.
    """
    weights = config.weights_for(len(lists))
    return tuple(
        _scaling(ranking, weight, config.scale)
        for ranking, weight in zip(lists, weights, strict=True)
    )


def _rrf(ranking: RankedList, weight: float, config: FusionConfig) -> Float64Array:
    return weight / (config.k + np.arange(1, len(ranking) + 1, dtype=np.float64))


def _qdrant_rrf(
    ranking: RankedList, weight: float, config: FusionConfig
) -> Float64Array:
    if weight == 0:
        return np.zeros(len(ranking))
    ranks = np.arange(1, len(ranking) + 1, dtype=np.float64)
    return 1.0 / (ranks / weight + config.k - 1.0)


def _dbsf(ranking: RankedList, _weight: float, _config: FusionConfig) -> Float64Array:
    """Scale so that mean - 3 deviations is 0 and mean + 3 deviations is 1.

    The deviation is that of a sample (n - 1). Outliers are not cut off: measured on
    qdrant-edge, a score beyond three deviations gives more than 1.
    """
    scores = ranking.scores
    if _flat(scores):
        return np.full(len(scores), _NEUTRAL)
    mean, deviation = float(scores.mean()), float(scores.std(ddof=1))
    return (scores - mean) / (6.0 * deviation) + 0.5


def _scaling(ranking: RankedList, weight: float, scale: Scale) -> Scaling:
    scores = ranking.scores
    if not len(scores):
        return Scaling(0.0, 0.0, 0.0, 0.0)
    if ranking.rest is not None:
        scores = np.append(scores, ranking.rest)
    last = float(scores[-1])
    if scale == "raw":
        return Scaling(weight, 0.0, 0.0, last)
    if _flat(scores):
        return Scaling(0.0, 0.0, 0.0 if scale == "zscore" else weight * _NEUTRAL, last)
    if scale == "zscore":
        return Scaling(weight / float(scores.std()), float(scores.mean()), 0.0, last)
    return Scaling(weight / (float(scores[0]) - last), last, 0.0, last)


def _flat(scores: Float64Array) -> bool:
    """Say whether the scores lie too close together to be scaled."""
    return len(scores) < 2 or bool(scores[0] == scores[-1]) or float(scores.std()) == 0


def _merge(
    rows: Sequence[Int64Array],
    parts: Sequence[Float64Array],
    absent: Sequence[float],
    limit: int | None = None,
) -> RankedList:
    """Add up contributions row by row.

    They are added smallest first, so that mirrored ranks (3rd and 7th, 7th and 3rd)
    give the same sum to the last bit and tie.
    """
    union = np.unique(np.concatenate([*rows, np.empty(0, dtype=np.int64)]))
    table = np.empty((len(union), len(parts)), dtype=np.float64)
    for leg, (leg_rows, part) in enumerate(zip(rows, parts, strict=True)):
        table[:, leg] = absent[leg]
        table[np.searchsorted(union, leg_rows), leg] = part
    table.sort(axis=1)
    return ranked(union, table.sum(axis=1), limit)


def _options(text: str, whole: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not sign for _, sign, _ in pairs):
        raise UsageError(f"'{whole}' needs options of the form name=value.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


_METHODS: dict[Method, Callable[[RankedList, float, FusionConfig], Float64Array]] = {
    "rrf": _rrf,
    "qdrant-rrf": _qdrant_rrf,
    "dbsf": _dbsf,
}
