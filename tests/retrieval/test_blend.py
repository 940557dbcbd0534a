"""A logit beside a fused score: the formula, its bounds, and how it is written."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.records import RankedList
from processor.ultimate_embedder.retrieval.blend import BlendConfig, blend
from processor.ultimate_embedder.retrieval.ranking import ranked

finite = st.floats(-20, 20, allow_nan=False)
lists = st.lists(st.tuples(finite, finite), min_size=2, max_size=12)
configs = st.builds(
    BlendConfig,
    weight=st.floats(0, 10),
    bound=st.none() | st.floats(0.01, 100),
)


def z_scores(scores: list[float]) -> list[float]:
    mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
    return [(score - mean) / deviation for score in scores]


def candidates(scores: list[float]) -> RankedList:
    return ranked(np.arange(len(scores)), np.array(scores, dtype=np.float64))


@given(lists, configs)
def test_a_score_is_the_fused_z_score_plus_the_bounded_logit(
    pairs: list[tuple[float, float]], config: BlendConfig
) -> None:
    fused = candidates([round(score, 2) for score, _ in pairs])
    logits = np.array([logit for _, logit in pairs])
    flat = np.ptp(fused.scores) == 0
    z = np.zeros(len(fused)) if flat else z_scores(fused.scores.tolist())
    bounded = (
        logits
        if config.bound is None
        else config.bound * np.array([math.tanh(x / config.bound) for x in logits])
    )
    expected = dict(zip(fused.rows.tolist(), z + config.weight * bounded, strict=True))
    found = blend(fused, logits, config)
    for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True):
        assert score == pytest.approx(expected[row], abs=1e-9)
    assert sorted(found.rows.tolist()) == list(range(len(pairs)))
    assert (np.diff(found.scores) <= 0).all()


@given(st.lists(finite, min_size=1, max_size=12))
def test_logits_of_zero_change_no_order(scores: list[float]) -> None:
    fused = candidates([round(score, 3) for score in scores])
    found = blend(fused, np.zeros(len(fused)), BlendConfig(weight=3, bound=2))
    assert found.rows.tolist() == fused.rows.tolist()


@given(lists)
def test_without_a_configuration_the_logits_alone_decide(
    pairs: list[tuple[float, float]],
) -> None:
    fused = candidates([score for score, _ in pairs])
    logits = np.array([logit for _, logit in pairs])
    found = blend(fused, logits, None, 3)
    assert found.scores.tolist() == sorted(logits.tolist(), reverse=True)[:3]


def test_however_sure_it_is_a_logit_moves_no_candidate_beyond_the_bound() -> None:
    fused = candidates([9.0, 0.0, 0.0, 0.0])
    logits = np.array([-1000.0, 1000.0, 0.0, 0.0])
    bounded = BlendConfig(weight=1, bound=1)
    assert blend(fused, logits, bounded).rows.tolist() == [0, 1, 2, 3]
    assert blend(fused, logits, BlendConfig(weight=1)).rows.tolist()[0] == 1


def test_equal_fused_scores_leave_the_order_to_the_logits() -> None:
    found = blend(candidates([1.0, 1.0, 1.0]), np.array([0.0, 2.0, 1.0]), BlendConfig())
    assert found.rows.tolist() == [1, 2, 0]
    assert len(blend(candidates([]), np.empty(0), BlendConfig())) == 0


@given(configs)
def test_a_blend_prints_as_what_parses_back(config: BlendConfig) -> None:
    assert BlendConfig.parse(str(config)) == config


def test_a_blend_reads_as_in_the_documentation() -> None:
    config = BlendConfig(weight=0.5, bound=3)
    assert str(config) == "blend(weight=0.5, bound=3)"
    assert BlendConfig.parse(" blend( bound = 3,weight=.5 ) ") == config
    assert BlendConfig.parse("blend()") == BlendConfig(weight=1.0, bound=None)


@pytest.mark.parametrize(
    "text",
    [
        "rrf(k=60)",
        "blend",
        "blend(0.5)",
        "blend(weight=much)",
        "blend(weights=1)",
        "blend(weight=-1)",
        "blend(weight=nan)",
        "blend(bound=0)",
        "blend(bound=inf)",
    ],
)
def test_what_is_no_blend_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        BlendConfig.parse(text)
