"""Intervals and the paired test, against enumeration and against scipy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.retrieval.ranking import Float64Array
from processor.ultimate_embedder.retrieval.significance import (
    estimates,
    paired_bootstrap,
    paired_randomisation,
    paired_test,
)

tenths = st.integers(-10, 10).map(lambda number: number / 10)


def enumerated(parts: list[Float64Array]) -> float:
    """Return the share of sign assignments at least as far from 0 as the one seen."""
    weighted = np.concatenate([part / len(part) for part in parts])
    seen = abs(weighted.sum())
    found = [
        abs(np.dot(signs, weighted)) >= seen - 1e-9
        for signs in product((1, -1), repeat=len(weighted))
    ]
    return float(np.mean(found))


@settings(max_examples=60, deadline=None)
@given(st.lists(tenths, min_size=1, max_size=9))
def test_few_queries_are_enumerated(differences: list[float]) -> None:
    part = np.array(differences)
    found = paired_test([part])
    assert found.exact
    assert found.value == pytest.approx(enumerated([part]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(tenths, min_size=1, max_size=3), min_size=2, max_size=3))
def test_sets_weigh_the_same_whatever_their_size(sets: list[list[float]]) -> None:
    parts = [np.array(one) for one in sets]
    assert paired_test(parts).value == pytest.approx(enumerated(parts))


def test_few_differing_queries_are_exact_as_scipy_has_them() -> None:
    part = np.array([0.3, 0.1, -0.2, 0.4, 0.25, 0.15, 0.6, -0.05])
    theirs = scipy.stats.permutation_test(
        (part,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert paired_test([part]).value == pytest.approx(theirs.pvalue)


def test_many_queries_are_drawn_and_come_near_scipy() -> None:
    part = np.random.default_rng(3).normal(0.06, 0.4, 150)
    theirs = scipy.stats.permutation_test(
        (part,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    )
    found = paired_test([part], seed=5)
    assert not found.exact
    assert found.value == pytest.approx(theirs.pvalue, abs=0.015)
    assert found == paired_test([part], seed=5)


def test_stages_that_never_differ_are_alike_for_sure() -> None:
    assert paired_test([np.zeros(500)]).value == 1.0


def test_a_clear_difference_is_significant_in_either_direction() -> None:
    part = np.full(40, 0.1)
    assert paired_test([part]).significant
    assert paired_test([-part]) == paired_test([part])


def test_an_interval_holds_the_mean_and_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).random((300, 2))
    first, second = estimates([values], seed=2)
    for found, column in ((first, values[:, 0]), (second, values[:, 1])):
        theirs = scipy.stats.bootstrap(
            (column,), np.mean, method="percentile", n_resamples=4000, rng=7
        ).confidence_interval
        assert found.value == pytest.approx(column.mean())
        assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.006)


def test_a_mean_over_sets_gives_each_set_the_same_weight() -> None:
    (found,) = estimates([np.zeros((90, 1)), np.ones((10, 1))])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(tenths, tenths), min_size=1, max_size=9))
def test_figures_of_the_same_queries_are_compared_in_pairs(
    pairs: list[tuple[float, float]],
) -> None:
    one, other = ([pair[side] for pair in pairs] for side in (0, 1))
    found = paired_randomisation(one, other)
    assert found == pytest.approx(enumerated([np.array(one) - np.array(other)]))
    assert found == paired_randomisation(other, one)


def test_the_interval_of_a_difference_is_that_of_paired_draws_in_scipy() -> None:
    generator = np.random.default_rng(4)
    one = generator.random(200)
    other = one + generator.normal(0.05, 0.1, 200)
    theirs = scipy.stats.bootstrap(
        (one, other),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=7,
    ).confidence_interval
    found = paired_bootstrap(list(one), list(other), seed=2)
    assert found.value == pytest.approx(np.mean(one - other))
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.002)
    assert found == paired_bootstrap(list(one), list(other), seed=2)


@pytest.mark.parametrize(("one", "other"), [([], []), ([0.1], [0.1, 0.2])])
def test_figures_that_do_not_pair_are_refused(
    one: list[float], other: list[float]
) -> None:
    with pytest.raises(ValueError, match="cannot pair"):
        paired_randomisation(one, other)
    with pytest.raises(ValueError, match="cannot pair"):
        paired_bootstrap(one, other, seed=0)
