"""How well known answers are found, per stage, and what differs: the bundle's card.

Each probe has one relevant row, so with its rank r (from 1, None: not found):
MRR@10 = mean of 1/r for r <= 10; nDCG@10 = mean of 1/log2(1 + r) for r <= 10;
Recall@k = share of probes with r <= k.

Two stages are compared on the probes that both of them ranked, and on no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from .probes import PROBES
from .questions import Kind
from .significance import ALPHA, Estimate, estimates, paired_bootstrap, paired_test

MIN_OF_A_KIND = 20
"""Probes: kinds with fewer have no figures of their own."""
FEW_PROBES = 30
"""Fewer probes than these are remarked upon."""

Ranks = Mapping[str, int | None]
"""By a probe's id the rank of its answer, None: not found."""

_Ranks = npt.NDArray[np.float64]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProbeFigures(_Record):
    """One stage's figures. A figure that the list is too short for is absent.

    `kind` set: over the probes of that kind alone.
    """

    stage: str
    kind: Kind | None = None
    queries: int
    depth: int
    mrr_at_10: Estimate | None = None
    ndcg_at_10: Estimate | None = None
    recall_at_10: Estimate | None = None
    recall_at_100: Estimate | None = None


class StageDifference(_Record):
    """`better_by`: nDCG@10 of `stage` less that of `against`, on the same probes.

    `p_value` is two-sided, of a paired randomisation test; `exact` tells that no signs
    were drawn at random.
    """

    stage: str
    against: str
    measure: str = "nDCG@10"
    queries: int
    better_by: Estimate
    p_value: float
    exact: bool

    @property
    def harmful(self) -> bool:
        """Whether `stage` is worse than `against`, and not by chance (p < 0.05)."""
        return self.better_by.value < 0 and self.p_value < ALPHA


class QualityCard(_Record):
    """Figures of every stage that ran, over probes drawn with `seed`.

    `kinds` counts probes by what they were taken from; `remarks` say what bounds the
    figures, or why there are none.
    """

    seed: int
    probes: int
    wanted: int = PROBES
    kinds: dict[Kind, int] = {}
    stages: tuple[ProbeFigures, ...] = ()
    by_kind: tuple[ProbeFigures, ...] = ()
    differences: tuple[StageDifference, ...] = ()
    remarks: tuple[str, ...] = ()

    def stage(self, name: str) -> ProbeFigures | None:
        """Return one stage's figures, or None where it did not run."""
        return next((found for found in self.stages if found.stage == name), None)

    def difference(self, stage: str, against: str) -> StageDifference | None:
        """Return how two stages differ, or None where they were not compared."""
        return next(
            (d for d in self.differences if (d.stage, d.against) == (stage, against)),
            None,
        )


def figures(
    stage: str,
    ranks: Sequence[int | None],
    *,
    depth: int,
    kind: Kind | None = None,
    seed: int = 0,
) -> ProbeFigures:
    """Return the figures for the ranks at which the answers were found.

    `depth` is how long the ranked lists may be: a measure that looks further down is
    left out. With no probe there is no figure.
    """
    named: dict[str, Estimate] = {}
    names = [name for name, (cutoff, _) in _MEASURES.items() if cutoff <= depth]
    if ranks and names:
        found = _array(ranks)
        columns = np.stack([_MEASURES[name][1](found) for name in names], axis=1)
        named = dict(zip(names, estimates([columns], seed), strict=True))
    return ProbeFigures(
        stage=stage, kind=kind, queries=len(ranks), depth=depth, **named
    )


def quality_card(
    ranks: Mapping[str, Ranks],
    *,
    depths: Mapping[str, int],
    kinds: Mapping[str, Kind] | None = None,
    pairs: Iterable[tuple[str, str]] = (),
    seed: int = 0,
    remarks: Sequence[str] = (),
) -> QualityCard:
    """Return the card of the stages in `ranks`, in their order.

    `kinds` are those of the probes by id; `pairs` are stages to compare, the second
    being the one to beat. Pairs that cannot be compared are left out.
    """
    probes = max((len(found) for found in ranks.values()), default=0)
    counted = Counter((kinds or {}).values())
    return QualityCard(
        seed=seed,
        probes=probes,
        kinds=dict(sorted(counted.items())),
        stages=tuple(
            figures(stage, list(found.values()), depth=depths[stage], seed=seed)
            for stage, found in ranks.items()
        ),
        by_kind=tuple(_by_kind(ranks, depths, kinds or {}, seed)),
        differences=tuple(_differences(ranks, depths, pairs, seed)),
        remarks=(*remarks, *_remarks(probes)),
    )


def _by_kind(
    ranks: Mapping[str, Ranks],
    depths: Mapping[str, int],
    kinds: Mapping[str, Kind],
    seed: int,
) -> Iterable[ProbeFigures]:
    for stage, found in ranks.items():
        for kind in sorted(set(kinds.values())):
            part = [rank for probe, rank in found.items() if kinds.get(probe) == kind]
            if MIN_OF_A_KIND <= len(part) < len(found):
                yield figures(stage, part, depth=depths[stage], kind=kind, seed=seed)


def _differences(
    ranks: Mapping[str, Ranks],
    depths: Mapping[str, int],
    pairs: Iterable[tuple[str, str]],
    seed: int,
) -> Iterable[StageDifference]:
    cutoff, ndcg = _MEASURES["ndcg_at_10"]
    for stage, against in pairs:
        if stage not in ranks or against not in ranks:
            continue
        shared = [probe for probe in ranks[stage] if probe in ranks[against]]
        if not shared or min(depths[stage], depths[against]) < cutoff:
            continue
        one = ndcg(_array([ranks[stage][probe] for probe in shared]))
        other = ndcg(_array([ranks[against][probe] for probe in shared]))
        p_value = paired_test([one - other], seed=seed)
        yield StageDifference(
            stage=stage,
            against=against,
            queries=len(shared),
            better_by=paired_bootstrap(one.tolist(), other.tolist(), seed=seed),
            p_value=p_value.value,
            exact=p_value.exact,
        )


def _remarks(probes: int) -> Iterable[str]:
    if 0 < probes < FEW_PROBES:
        drawn = "1 question" if probes == 1 else f"{probes} questions"
        yield f"Only {drawn} could be drawn: the figures say little."


def _array(ranks: Sequence[int | None]) -> _Ranks:
    return np.array([np.inf if rank is None else rank for rank in ranks], dtype=float)


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
