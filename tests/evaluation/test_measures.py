"""Figures of one ranking, against the field's own programs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.evaluation.documents import DocumentRanking
from processor.ultimate_embedder.evaluation.measures import MEASURES, measure
from processor.ultimate_embedder.evaluation.trec_runs import falling, write_runs

THEIRS = [
    ir_measures.parse_measure(name)
    for name in ("nDCG@10", "RR@10", "R@10", "R@100", "Judged@10")
]
NAMES = [f"d{number}" for number in range(130)]

rankings = st.lists(st.sampled_from(NAMES), unique=True, max_size=120)
judgements = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=40)


def theirs(ranking: list[str], judged: dict[str, int]) -> list[float]:
    scores = {name: float(-place) for place, name in enumerate(ranking)}
    found = ir_measures.calc_aggregate(THEIRS, {"q": judged}, {"q": scores})
    return [found[one] for one in THEIRS]


@given(rankings.filter(bool), judgements.filter(bool))
def test_figures_are_those_of_the_field_s_library(
    ranking: list[str], judged: dict[str, int]
) -> None:
    assert measure(ranking, judged) == pytest.approx(theirs(ranking, judged), abs=1e-9)


@given(rankings, judgements)
def test_every_figure_is_a_share(ranking: list[str], judged: dict[str, int]) -> None:
    found = measure(ranking, judged)
    assert found.shape == (len(MEASURES),)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


def test_a_query_without_results_or_without_judgements_scores_nothing() -> None:
    assert not measure([], {"a": 1}).any()
    assert not measure(["a", "b"], {}).any()


def test_figures_can_be_checked_by_hand() -> None:
    ndcg, mrr, recall, _, judged = measure(
        ["x", "b", "a", "y"], {"a": 2, "b": 1, "c": 0}
    )
    ideal = 2 + 1 / np.log2(3)
    assert ndcg == pytest.approx((1 / np.log2(3) + 2 / 2) / ideal)
    assert (mrr, recall, judged) == (0.5, 1.0, 0.5)


def test_a_judgement_below_0_is_not_relevant_and_counts_as_judged() -> None:
    found = measure(["spam", "a"], {"spam": -2, "a": 1})
    assert found == pytest.approx(measure(["spam", "a"], {"spam": 0, "a": 1}))


scores = st.lists(st.sampled_from([0.0, 0.25, 0.1, 1.0, 7.5, -3.0]), max_size=60)


@given(scores)
def test_scores_of_a_run_fall_strictly_and_stay_near(values: list[float]) -> None:
    ordered = tuple(sorted(values, reverse=True))
    found = falling(ordered)
    assert all(below < above for above, below in pairwise(found))
    assert np.allclose(found, ordered, atol=1e-4)


def test_trec_eval_reads_a_run_with_ties_in_our_order(tmp_path: Path) -> None:
    names = ("b", "a", "d", "c", "e f")  # trec_eval alone would put the ties d, b, a
    tied = DocumentRanking(names, (0.5, 0.5, 0.5, 0.25, 0.25))
    judged = {"a": 1, "c": 2, "e%20f": 1}
    (path,) = write_runs(tmp_path, "set", {"sparse:bm25": {"q": tied}})
    assert path.name == "set.sparse-bm25.trec"
    lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    assert [(line[0], line[1], line[3]) for line in lines] == [
        ("q", "Q0", str(rank)) for rank in range(1, 6)
    ]
    run = {"q": {line[2]: float(line[4]) for line in lines}}
    found = pytrec_eval.RelevanceEvaluator({"q": judged}, {"ndcg_cut.10"}).evaluate(run)
    ours = measure(["b", "a", "d", "c", "e%20f"], judged)[0]
    assert found["q"]["ndcg_cut_10"] == pytest.approx(ours)
