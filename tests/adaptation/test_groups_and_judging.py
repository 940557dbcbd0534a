"""Groups hold what a blend orders; figures are those of the field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from adaptation_parts import marked_groups
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.adaptation.fusion_advice import (
    ProbeLists,
    advise,
    fusion_grid,
)
from processor.ultimate_embedder.adaptation.groups import (
    Group,
    make_group,
    read_groups,
    sample,
    thinned,
    write_groups,
)
from processor.ultimate_embedder.adaptation.judging import (
    answer_rank,
    best_scale,
    choose_blend,
    compare,
    fused_ranks,
    ndcg,
)
from processor.ultimate_embedder.errors import InputError
from processor.ultimate_embedder.records import RankedList
from processor.ultimate_embedder.retrieval.blend import BlendConfig, blend
from processor.ultimate_embedder.retrieval.fusion import FusionConfig
from processor.ultimate_embedder.retrieval.ranking import rank_of, ranked

LIST = ranked(np.array([4, 9, 2, 7], dtype=np.int64), np.array([0.5, 2.0, 0.5, 1.0]))


def group_of(fused: RankedList, answer: int) -> Group:
    group = make_group("q", "s", fused, answer, str)
    assert group is not None
    return group


def test_a_group_has_the_answer_first_and_the_others_as_fusion_ranked_them() -> None:
    group = group_of(LIST, 2)
    assert group.documents == ("2", "9", "7", "4")
    assert group.ranks == (3, 1, 2, 4)
    assert np.mean(group.fused_z) == pytest.approx(0)
    assert np.std(group.fused_z) == pytest.approx(1)


def test_a_list_without_its_answer_or_without_others_is_no_group() -> None:
    assert make_group("q", "s", LIST, 5, str) is None
    alone = RankedList(np.array([1]), np.array([1.0]))
    assert make_group("q", "s", alone, 1, str) is None


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), min_size=2, max_size=12),
    st.integers(0, 11),
    st.randoms(use_true_random=False),
    st.sampled_from([None, BlendConfig(weight=0.7, bound=2), BlendConfig(weight=0)]),
)
@settings(max_examples=60, deadline=None)
def test_the_rank_judged_is_the_rank_a_blend_gives(
    scores: list[float], answer: int, rng: object, config: BlendConfig | None
) -> None:
    """Logits that differ by row, so that ties are those of fusion alone."""
    rows = np.arange(len(scores), dtype=np.int64)
    fused = ranked(rows, np.array(scores))
    answer %= len(scores)
    group = group_of(fused, answer)
    logits = {row: float(rng.randint(-9, 9)) / 7 for row in rows.tolist()}  # type: ignore[attr-defined]
    if config is None:
        logits = {row: logit + row / 1000 for row, logit in logits.items()}
    by_group = np.array([logits[int(name)] for name in group.documents], np.float32)
    by_list = np.array([logits[row] for row in fused.rows.tolist()], np.float32)
    expected = rank_of(blend(fused, by_list, config), answer)
    assert answer_rank(group, by_group, config) == expected


def test_z_scores_are_those_of_the_candidates_that_a_search_would_blend() -> None:
    scores = -np.sqrt(np.arange(60.0))
    fused = ranked(np.arange(60), scores)
    group = make_group("q", "s", fused, 8, str, candidates=20)
    assert group is not None
    first = group.first(20)
    assert first is not None
    assert np.mean(first.fused_z) == pytest.approx(0)
    assert np.std(first.fused_z) == pytest.approx(1)
    assert len(group.documents) == 60
    assert min(group.fused_z) < min(first.fused_z)


def test_fused_scores_begin_where_their_softmax_tells_the_answers_best() -> None:
    rng = np.random.default_rng(3)
    groups = []
    for _ in range(400):
        z = rng.normal(size=8)
        chances = np.exp(2 * z) / np.exp(2 * z).sum()
        answer = int(rng.choice(8, p=chances))
        order = [answer, *(place for place in range(8) if place != answer)]
        texts = tuple(map(str, order))
        groups.append(Group("q", "s", texts, tuple(z[order].tolist()), (1,) * 8))
    assert best_scale(groups) == pytest.approx(2, rel=0.2)


def test_a_sample_holds_the_answer_and_negatives_of_both_kinds() -> None:
    group = group_of(ranked(np.arange(40), -np.arange(40.0)), 20)
    rng = np.random.default_rng(0)
    drawn = sample(group, 7, 12, 4, rng)
    assert drawn.documents[0] == "20"
    assert len(set(drawn.documents)) == 8
    assert sum(int(name) < 12 for name in drawn.documents[1:]) == 4
    small = sample(group.only([0, 1, 2]), 7, 12, 4, rng)
    assert len(small.documents) == 8
    assert set(small.documents[1:]) == {"0", "1"}


def test_a_thinned_group_keeps_the_best_negatives_and_the_figures() -> None:
    group = group_of(ranked(np.arange(60), -np.arange(60.0)), 8)
    thin = thinned(group, 12, 8, np.random.default_rng(0))
    assert len(thin.documents) == 21
    assert thin.documents[1:13] == tuple(str(n) for n in range(13) if n != 8)
    assert fused_ranks([thin]) == fused_ranks([group]) == [9]
    logits = np.zeros(21, dtype=np.float32)
    assert answer_rank(thin, logits, BlendConfig()) == 9


def test_only_the_first_candidates_are_judged_where_the_answer_is_among_them() -> None:
    group = group_of(ranked(np.arange(60), -np.arange(60.0)), 8)
    cut = group.first(10)
    assert cut is not None
    assert len(cut.documents) == 10
    assert group.first(8) is None


def test_groups_come_back_from_their_file(tmp_path: Path) -> None:
    groups = marked_groups(3, seed=0)
    write_groups(tmp_path / "some.jsonl", groups)
    assert list(read_groups(tmp_path / "some.jsonl")) == groups
    with (tmp_path / "some.jsonl").open("a") as stream:
        stream.write('{"query": "q"}\n')
    with pytest.raises(InputError, match=r"Line 4 of some\.jsonl"):
        list(read_groups(tmp_path / "some.jsonl"))


def test_queries_whose_answer_is_missing_count_nothing() -> None:
    assert ndcg([1, 3, 11, None], missed=1).tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_the_blend_chosen_orders_best_and_weighs_least_among_equals() -> None:
    groups = marked_groups(20, seed=0)
    helpful = [
        np.eye(len(group.documents), dtype=np.float32)[0] * 2 for group in groups
    ]
    assert choose_blend(groups, helpful, 4.0, (0, 1, 2, 3)).weight == 2
    useless = [np.zeros(len(group.documents), dtype=np.float32) for group in groups]
    assert choose_blend(groups, useless, 4.0).weight == 0


def test_a_gain_is_told_from_chance() -> None:
    figures = {"a": np.full(40, 0.5), "b": np.full(40, 0.6), "c": np.full(40, 0.5)}
    figures["c"][0] = 0.9
    assert compare(figures, "b", "a").better
    assert not compare(figures, "a", "b").better
    assert not compare(figures, "c", "a").better


def probe(sparse_is_right: bool, number: int) -> ProbeLists:
    """Return two lists that disagree: one has the answer first, one last."""
    rows = np.arange(20, dtype=np.int64)
    right, wrong = ranked(rows, -rows.astype(float)), ranked(rows, rows.astype(float))
    lists = (wrong, right) if sparse_is_right else (right, wrong)
    return ProbeLists(lists, number % 3)


def test_weights_that_find_more_are_advised_and_equal_ones_are_not() -> None:
    config = FusionConfig(method="sum", weights=(1.0, 0.9))
    probes = [probe(True, number) for number in range(60)]
    found = advise(config, probes[:40], probes[40:], 20)
    assert found.expression is not None
    assert FusionConfig.parse(found.expression).weights[1] > 1
    assert found.comparison is not None
    assert found.comparison.gain > 0
    content = advise(config, probes[:40], [probe(False, n) for n in range(20)], 20)
    assert content.expression is None
    best = FusionConfig(method="sum", weights=(1.0, 50.0))
    assert advise(best, probes[:40], probes[40:], 20).comparison is None


def test_a_fusion_without_weights_to_change_is_left_alone() -> None:
    assert fusion_grid(FusionConfig(method="dbsf"), 2) == [FusionConfig(method="dbsf")]
    assert len(fusion_grid(FusionConfig(), 1)) == 1
    assert {one.weights[0] for one in fusion_grid(FusionConfig(), 2)[1:]} == {1.0}
