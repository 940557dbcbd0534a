"""The card: stages over the same probes, kinds, remarks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.stats

from processor.ultimate_embedder.retrieval.quality import (
    QualityCard,
    StageDifference,
    figures,
    quality_card,
)

DEPTHS = {"dense": 100, "sparse": 100, "fused": 100, "reranked": 20}


def by_id(ranks: list[int | None]) -> dict[str, int | None]:
    return {f"probe-{place}": rank for place, rank in enumerate(ranks)}


def ndcg(ranks: list[int | None]) -> np.ndarray:
    found = np.array([np.inf if rank is None else rank for rank in ranks])
    return np.where(found <= 10, 1 / np.log2(1 + found), 0.0)


def compared(
    one: list[int | None], other: list[int | None], **depths: int
) -> StageDifference | None:
    card = quality_card(
        {"fused": by_id(one), "dense": by_id(other)},
        depths={**DEPTHS, **depths},
        pairs=[("fused", "dense")],
    )
    return card.difference("fused", "dense")


def test_a_difference_is_that_of_a_paired_test_in_scipy() -> None:
    draw = np.random.default_rng(2)
    one = [int(rank) for rank in draw.integers(1, 14, 120)]
    other = [int(rank) for rank in draw.integers(1, 16, 120)]
    found = compared(one, other)
    assert found is not None
    differences = ndcg(one) - ndcg(other)
    theirs = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.better_by.value == pytest.approx(differences.mean())
    assert found.better_by.low < found.better_by.value < found.better_by.high
    assert (found.queries, found.measure, found.exact) == (120, "nDCG@10", False)


def test_stages_are_compared_on_the_probes_that_both_ranked() -> None:
    fused = [1] * 4 + [None] * 60
    card = quality_card(
        {"fused": by_id(fused), "reranked": by_id([2, 2, 2, 2])},
        depths=DEPTHS,
        pairs=[("reranked", "fused")],
    )
    found = card.difference("reranked", "fused")
    assert found is not None
    assert found.queries == 4
    assert found.better_by.value == pytest.approx(1 / np.log2(3) - 1)
    assert (found.p_value, found.exact) == (2 / 2**4, True)
    assert not found.harmful  # four probes prove nothing


@pytest.mark.parametrize(
    ("one", "other", "harmful"),
    [
        ([2] * 12, [1] * 12, True),
        ([1] * 12, [2] * 12, False),
        ([1, 2] * 6, [2, 1] * 6, False),
        ([3, 1], [1, 1], False),
    ],
    ids=["worse", "better", "neither", "too few to tell"],
)
def test_only_a_stage_that_is_surely_worse_is_harmful(
    one: list[int | None], other: list[int | None], harmful: bool
) -> None:
    found = compared(one, other)
    assert found is not None
    assert found.harmful is harmful


def test_stages_that_did_not_run_or_are_cut_too_early_are_not_compared() -> None:
    assert compared([1], [2], fused=5) is None
    card = quality_card(
        {"dense": by_id([1])}, depths=DEPTHS, pairs=[("fused", "dense")]
    )
    assert card.differences == ()


def test_kinds_are_counted_and_those_with_twenty_probes_have_figures() -> None:
    ranks = by_id([1] * 25 + [2] * 20 + [3] * 19)
    names = list(ranks)
    kinds = dict.fromkeys(names[:25], "heading")
    kinds |= dict.fromkeys(names[25:45], "docstring")
    kinds |= dict.fromkeys(names[45:], "title")
    card = quality_card({"fused": ranks}, depths=DEPTHS, kinds=kinds)
    assert card.kinds == {"heading": 25, "docstring": 20, "title": 19}
    assert [(part.kind, part.queries) for part in card.by_kind] == [
        ("docstring", 20),
        ("heading", 25),
    ]
    assert card.by_kind[0] == figures("fused", [2] * 20, depth=100, kind="docstring")


def test_figures_of_the_only_kind_are_not_told_twice() -> None:
    ranks = by_id([1] * 40)
    kinds = dict.fromkeys(ranks, "heading")
    assert quality_card({"fused": ranks}, depths=DEPTHS, kinds=kinds).by_kind == ()


def test_few_probes_are_remarked_upon() -> None:
    few = quality_card({"fused": by_id([1] * 29)}, depths=DEPTHS)
    assert few.remarks == ("Only 29 questions could be drawn: the figures say little.",)
    one = quality_card({"fused": by_id([1])}, depths=DEPTHS)
    assert one.remarks == ("Only 1 question could be drawn: the figures say little.",)
    assert few.stages[0].ndcg_at_10 is not None
    enough = quality_card({"fused": by_id([1] * 30)}, depths=DEPTHS)
    assert enough.remarks == ()
    none = quality_card({}, depths={}, remarks=["Nothing asks."])
    assert (none.probes, none.stages, none.remarks) == (0, (), ("Nothing asks.",))


def test_a_quality_card_survives_json() -> None:
    card = quality_card(
        {"dense": by_id([1, 2, None]), "reranked": by_id([1])},
        depths=DEPTHS,
        kinds={"probe-0": "heading", "probe-1": "title", "probe-2": "question"},
        pairs=[("reranked", "dense")],
    )
    assert QualityCard.model_validate_json(card.model_dump_json()) == card
    assert card.probes == 3
    assert card.stage("reranked") is not None
    assert card.stage("sparse") is None
    assert card.stages[0].mrr_at_10 is not None
    assert re.fullmatch(r"0\.500 \[0\.\d+, 1\.000\]", str(card.stages[0].mrr_at_10))
