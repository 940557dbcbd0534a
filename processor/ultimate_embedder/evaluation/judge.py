"""From rankings and judgements to figures: per query, per stage, per pair of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..retrieval.significance import estimates, paired_test
from ..search.results import RERANKED
from .documents import DocumentRanking
from .judgements import Judgements
from .measures import MEASURES, PRIMARY, Float64Array, measure
from .report import Comparison, StageFigures, StageTable

_PRIMARY = MEASURES.index(PRIMARY)


@dataclass(frozen=True, slots=True)
class JudgedStages:
    """Figures of each query by stage, all stages over the same queries.

    Shapes: each of `values` is float64 [queries, measures], measures as in `MEASURES`.
    """

    values: dict[str, Float64Array]


def judge(
    rankings: Mapping[str, Mapping[str, DocumentRanking]], judgements: Judgements
) -> tuple[JudgedStages, JudgedStages | None]:
    """Return the figures of all stages but the reranked one over every query, and of
    all stages over the reranked queries, if there are any."""
    reranked = rankings.get(RERANKED, {})
    every = {stage: lists for stage, lists in rankings.items() if stage != RERANKED}
    queries = list(next(iter(every.values())))
    whole = JudgedStages(
        {stage: _figures(lists, queries, judgements) for stage, lists in every.items()}
    )
    if not reranked:
        return whole, None
    chosen = [query for query in queries if query in reranked]
    return whole, JudgedStages(
        {
            stage: _figures(lists, chosen, judgements)
            for stage, lists in rankings.items()
        }
    )


def stage_table(sets: Sequence[JudgedStages], seed: int) -> StageTable:
    """Return means over sets, of the stages that each of them has, and comparisons."""
    stages = [
        name for name in sets[0].values if all(name in one.values for one in sets)
    ]
    columns = [np.concatenate([one.values[n] for n in stages], axis=1) for one in sets]
    found = iter(estimates(columns, seed))
    queries = sum(len(one) for one in columns)
    return StageTable(
        stages=tuple(
            StageFigures(
                stage=stage,
                queries=queries,
                measures={name: next(found) for name in MEASURES},
            )
            for stage in stages
        ),
        comparisons=tuple(
            _compare(sets, stage, against, seed)
            for against, stage in combinations(stages, 2)
        ),
    )


def _compare(
    sets: Sequence[JudgedStages], stage: str, against: str, seed: int
) -> Comparison:
    differences = [
        one.values[stage][:, _PRIMARY] - one.values[against][:, _PRIMARY]
        for one in sets
    ]
    p_value = paired_test(differences, seed=seed)
    return Comparison(
        stage=stage,
        against=against,
        measure=PRIMARY,
        queries=sum(map(len, differences)),
        better_by=float(np.mean([part.mean() for part in differences])),
        p_value=p_value.value,
        exact=p_value.exact,
    )


def _figures(
    lists: Mapping[str, DocumentRanking], queries: Sequence[str], judged: Judgements
) -> Float64Array:
    return np.stack([measure(lists[query].names, judged[query]) for query in queries])
