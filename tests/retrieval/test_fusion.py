"""Fusion against qdrant-edge, qdrant-client and the formulas, on the same lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.hybrid.fusion import (
    distribution_based_score_fusion,
    reciprocal_rank_fusion,
)

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.records import RankedList
from processor.ultimate_embedder.retrieval.fusion import FusionConfig, fuse
from processor.ultimate_embedder.retrieval.ranking import ranked

edge = pytest.importorskip("qdrant_edge")

Leg = dict[int, float]


def ranking(leg: Leg) -> RankedList:
    return ranked(
        np.array(list(leg), dtype=np.int64), np.array(list(leg.values()), dtype=float)
    )


def as_dict(result: RankedList) -> dict[int, float]:
    return dict(zip(result.rows.tolist(), result.scores.tolist(), strict=True))


def points(leg: Leg) -> list[models.ScoredPoint]:
    listed = ranking(leg)
    return [
        models.ScoredPoint(id=int(row), version=0, score=float(score))
        for row, score in zip(listed.rows, listed.scores, strict=True)
    ]


def on_edge(folder: Path, legs: list[Leg], fusion: object) -> dict[int, float]:
    """Fuse in qdrant-edge: a point's score in a leg is its one-dimensional vector."""
    names = [f"leg{i}" for i in range(len(legs))]
    params = edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)
    shard = edge.EdgeShard.create(
        str(folder), edge.EdgeConfig(vectors=dict.fromkeys(names, params))
    )
    rows = sorted(set().union(*legs))
    shard.update(
        edge.UpdateOperation.upsert_points(
            [
                edge.Point(
                    row,
                    {
                        name: [leg[row]]
                        for name, leg in zip(names, legs, strict=True)
                        if row in leg
                    },
                    {},
                )
                for row in rows
            ]
        )
    )
    found = shard.query(
        edge.QueryRequest(
            limit=1000,
            query=fusion,
            prefetches=[
                edge.Prefetch(limit=1000, query=edge.Query.Nearest([1.0], using=name))
                for name in names
            ],
        )
    )
    shard.close()
    return {point.id: point.score for point in found}


LEGS: list[list[Leg]] = [
    [{0: 5.0, 1: 4.0, 2: 3.0, 3: 2.0}, {3: 10.0, 4: 8.0, 1: 7.0}],
    [{i: 1.0 + (i == 7) * 99.0 + i / 1024 for i in range(20)}, {3: 2.0, 30: 1.5}],
    [{0: 1.0}, {1: 2.0, 0: 1.5}, {2: 0.5, 1: 0.25, 9: 0.125}],
]


@pytest.mark.parametrize("legs", LEGS, ids=["two lists", "an outlier", "three lists"])
@pytest.mark.parametrize("k", [2, 10, 61])
@pytest.mark.parametrize("weighted", [False, True])
def test_qdrant_rrf_gives_the_scores_of_qdrant_edge(
    tmp_path: Path, legs: list[Leg], k: int, weighted: bool
) -> None:
    weights = (3.0, 0.5, 1.25)[: len(legs)] if weighted else ()
    config = FusionConfig(method="qdrant-rrf", k=k, weights=weights)
    theirs = on_edge(
        tmp_path / "shard", legs, edge.Fusion.Rrf(k=k, weights=list(weights) or None)
    )
    ours = as_dict(fuse([ranking(leg) for leg in legs], config))
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("legs", LEGS, ids=["two lists", "an outlier", "three lists"])
def test_dbsf_gives_the_scores_of_qdrant_edge_outliers_included(
    tmp_path: Path, legs: list[Leg]
) -> None:
    theirs = on_edge(tmp_path / "shard", legs, edge.Fusion.Dbsf())
    ours = as_dict(fuse([ranking(leg) for leg in legs], FusionConfig(method="dbsf")))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_papers_constant_60_is_qdrants_61(tmp_path: Path) -> None:
    legs = LEGS[0]
    theirs = on_edge(tmp_path / "shard", legs, edge.Fusion.Rrf(k=61))
    ours = as_dict(fuse([ranking(leg) for leg in legs], FusionConfig(k=60)))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert max(ours.values()) == pytest.approx(1 / 61 + 1 / 64)


scores = st.integers(-2000, 2000).map(lambda value: value / 64)
leg_lists = st.lists(
    st.dictionaries(st.integers(0, 40), scores, max_size=25), min_size=1, max_size=3
)


@given(leg_lists, st.sampled_from([2.0, 5.0, 61.0]))
@settings(max_examples=60, deadline=None)
def test_rrf_agrees_with_qdrant_client_on_any_lists(legs: list[Leg], k: float) -> None:
    theirs = reciprocal_rank_fusion(
        [points(leg) for leg in legs], limit=1000, ranking_constant_k=int(k)
    )
    for config in (FusionConfig(method="qdrant-rrf", k=k), FusionConfig(k=k - 1)):
        ours = as_dict(fuse([ranking(leg) for leg in legs], config))
        assert ours == pytest.approx({p.id: p.score for p in theirs})


@given(leg_lists)
@settings(max_examples=60, deadline=None)
def test_dbsf_agrees_with_qdrant_client_on_any_lists(legs: list[Leg]) -> None:
    theirs = distribution_based_score_fusion([points(leg) for leg in legs], limit=1000)
    ours = as_dict(fuse([ranking(leg) for leg in legs], FusionConfig(method="dbsf")))
    assert ours == pytest.approx({p.id: p.score for p in theirs}, rel=1e-9, abs=1e-9)


METHODS = [
    "rrf(k=60)",
    "rrf(k=10, weights=2:1)",
    "qdrant-rrf(k=2, weights=1:0.5)",
    "dbsf()",
    "sum(scale=minmax, weights=1:3)",
    "sum(scale=zscore)",
    "sum(scale=raw)",
    "sum(scale=raw, weights=1:0.016)",
    "sum(scale=raw, weights=1:0.01612345678)",
    "qdrant-rrf(k=2, weights=1:0)",
]


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_row_comes_once_scores_fall_and_ties_stand_by_row(
    method: str, data: st.DataObject
) -> None:
    two_legs = st.tuples(*[st.dictionaries(st.integers(0, 30), scores)] * 2)
    legs = data.draw(two_legs)
    limit = data.draw(st.one_of(st.none(), st.integers(0, 10)))
    lists = [ranking(leg) for leg in legs]
    whole = fuse(lists, FusionConfig.parse(method))
    assert sorted(whole.rows.tolist()) == sorted(set().union(*legs))
    pairs = list(zip((-whole.scores).tolist(), whole.rows.tolist(), strict=True))
    assert pairs == sorted(pairs)
    cut = fuse(lists, FusionConfig.parse(method), limit)
    assert cut.rows.tolist() == whole.rows.tolist()[:limit]


@pytest.mark.parametrize("method", [m for m in METHODS if "weights" not in m])
@given(legs=leg_lists, data=st.data())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_order_of_the_lists_changes_no_bit(
    method: str, legs: list[Leg], data: st.DataObject
) -> None:
    swapped = data.draw(st.permutations(legs))
    config = FusionConfig.parse(method)
    one, other = (
        fuse([ranking(leg) for leg in each], config) for each in (legs, swapped)
    )
    assert one.rows.tolist() == other.rows.tolist()
    assert one.scores.tobytes() == other.scores.tobytes()


def test_mirrored_ranks_in_three_lists_tie_exactly_and_the_lower_row_leads() -> None:
    orders = [[5, 1, 9], [9, 5, 1], [1, 9, 5]]
    lists = [
        RankedList(np.array(order, dtype=np.int64), np.array([3.0, 2.0, 1.0]))
        for order in orders
    ]
    fused = fuse(lists)
    assert fused.rows.tolist() == [1, 5, 9]
    assert len(set(fused.scores.tolist())) == 1


def test_a_paper_weight_multiplies_and_a_weight_of_zero_silences_a_list() -> None:
    legs = [ranking({0: 2.0, 1: 1.0}), ranking({1: 2.0, 2: 1.0})]
    fused = as_dict(fuse(legs, FusionConfig(weights=(2.0, 0.0))))
    assert fused == pytest.approx({0: 2 / 61, 1: 2 / 62, 2: 0.0})


def test_minmax_sum_is_the_weighted_sum_of_scores_scaled_to_0_and_1() -> None:
    legs = [ranking({0: 10.0, 1: 5.0, 2: 0.0}), ranking({2: 4.0, 3: 2.0})]
    fused = as_dict(fuse(legs, FusionConfig(method="sum", weights=(1.0, 3.0))))
    assert fused == pytest.approx({0: 1.0, 1: 0.5, 2: 3.0, 3: 0.0})


SCALES = {
    "raw": lambda scores: scores,
    "minmax": lambda scores: (scores - scores.min()) / (scores.max() - scores.min()),
    "zscore": lambda scores: (scores - scores.mean()) / scores.std(),
}


@pytest.mark.parametrize("scale", SCALES)
def test_a_row_that_a_list_does_not_hold_counts_as_that_lists_last(scale: str) -> None:
    left, right = np.array([4.0, 2.0, 0.5]), np.array([9.0, 7.0])
    legs = [ranking({0: 4.0, 1: 2.0, 2: 0.5}), ranking({2: 9.0, 3: 7.0})]
    config = FusionConfig.parse(f"sum(scale={scale}, weights=2:0.5)")
    a, b = 2 * SCALES[scale](left), 0.5 * SCALES[scale](right)
    expected = {0: a[0] + b[1], 1: a[1] + b[1], 2: a[2] + b[0], 3: a[2] + b[1]}
    assert as_dict(fuse(legs, config)) == pytest.approx(expected)


@pytest.mark.parametrize("scale", SCALES)
def test_where_the_rest_is_known_to_score_0_a_missing_row_counts_as_0(
    scale: str,
) -> None:
    left, right = np.array([4.0, 2.0, 0.5]), np.array([9.0, 7.0, 0.0])
    ended = replace(ranking({2: 9.0, 3: 7.0}), rest=0.0)
    config = FusionConfig.parse(f"sum(scale={scale})")
    a, b = SCALES[scale](left), SCALES[scale](right)
    expected = {0: a[0] + b[2], 1: a[1] + b[2], 2: a[2] + b[0], 3: a[2] + b[1]}
    fused = as_dict(fuse([ranking({0: 4.0, 1: 2.0, 2: 0.5}), ended], config))
    assert fused == pytest.approx(expected)


@pytest.mark.parametrize("scale", SCALES)
def test_the_only_row_with_a_rare_word_gains_by_it(scale: str) -> None:
    dense = ranking({row: 0.9 - row / 100 for row in range(9)})
    only = replace(ranking({3: 8.0}), rest=0.0)
    config = FusionConfig.parse(f"sum(scale={scale}, weights=1:1)")
    assert fuse([dense, only], config).rows[0] == 3


@pytest.mark.parametrize("scale", SCALES)
def test_lists_of_one_row_none_or_equal_scores_keep_the_other_lists_order(
    scale: str,
) -> None:
    dense = ranking({4: 0.9, 2: 0.5, 7: 0.1})
    config = FusionConfig.parse(f"sum(scale={scale}, weights=1:3)")
    others: list[Leg] = [{}, {2: 5.0}, {7: 5.0, 4: 5.0, 2: 5.0}]
    for other in others:
        fused = fuse([dense, ranking(other)], config)
        assert fused.rows.tolist() == [4, 2, 7]
        assert np.isfinite(fused.scores).all()
    alone = fuse([ranking({2: 5.0})], FusionConfig.parse(f"sum(scale={scale})"))
    assert alone.rows.tolist() == [2]


@given(st.integers(0, 2**16), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_raw_sum_of_whole_lists_is_the_sum_of_the_score_vectors(
    seed: int, rows: int
) -> None:
    """Lists as deep as the collection: nothing is cut, so nothing is estimated."""
    random = np.random.default_rng(seed)
    dense = random.uniform(-1, 1, rows)
    sparse = np.maximum(random.uniform(-9, 9, rows), 0.0)
    found = np.flatnonzero(sparse > 0)
    lists = [
        ranked(np.arange(rows), dense, rows),
        replace(ranked(found, sparse[found], rows), rest=0.0),
    ]
    config = FusionConfig.parse("sum(scale=raw, weights=1:0.016)")
    fused = fuse(lists, config, rows)
    plain = dense + 0.016 * sparse
    assert fused.rows.tolist() == np.argsort(-plain, kind="stable").tolist()
    np.testing.assert_allclose(fused.scores, np.sort(plain)[::-1], atol=1e-12)


def test_weights_stay_with_the_number_of_lists_they_were_made_for() -> None:
    config = FusionConfig.parse("sum(scale=raw, weights=1:0.016)")
    assert config.for_legs(2) is config
    assert str(config.for_legs(1)) == "sum(scale=raw)"
    unweighted = FusionConfig.parse("rrf(k=10)")
    assert unweighted.for_legs(3) is unweighted


@pytest.mark.parametrize("method", METHODS)
def test_a_fusion_value_prints_as_something_that_parses_back(method: str) -> None:
    assert str(FusionConfig.parse(method)) == method
    assert FusionConfig.parse(str(FusionConfig.parse(method))) == FusionConfig.parse(
        method
    )


def test_options_left_out_take_the_methods_defaults() -> None:
    assert FusionConfig.parse("rrf()") == FusionConfig(k=60)
    assert FusionConfig.parse("qdrant-rrf()").k == 2


@pytest.mark.parametrize(
    "text",
    [
        "rrf",
        "mean()",
        "rrf(k=-1)",
        "rrf(k=nan)",
        "rrf(k=x)",
        "qdrant-rrf(k=0)",
        "dbsf(weights=1:2)",
        "sum(scale=log)",
        "rrf(60)",
        "rrf(weights=0:0)",
        "rrf(weights=-1:1)",
    ],
)
def test_a_fusion_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        FusionConfig.parse(text)


def test_weights_that_do_not_match_the_lists_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2 weights for 1 ranked list\."):
        fuse([ranking({0: 1.0})], FusionConfig(weights=(1.0, 1.0)))


def test_nothing_fused_is_an_empty_ranking() -> None:
    assert len(fuse([])) == 0
    assert len(fuse([ranking({}), ranking({})])) == 0
