"""Training learns what neither leg sees, and says how it went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptation_parts import SMALL, card, marked_groups, trainer

from processor.ultimate_embedder.adaptation.folder import write_folder
from processor.ultimate_embedder.adaptation.groups import Group
from processor.ultimate_embedder.adaptation.judging import (
    blended_ranks,
    fused_ranks,
    ndcg,
)
from processor.ultimate_embedder.adaptation.settings import TrainingConfig
from processor.ultimate_embedder.adaptation.watch import Progress
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.weight_difference import WEIGHTS
from processor.ultimate_embedder.errors import ModelError, UsageError
from processor.ultimate_embedder.retrieval.blend import BlendConfig

TRAINED = marked_groups(60, seed=1)
HELD_OUT = marked_groups(24, seed=2)
SHORT = replace(SMALL, steps=4, check_every=2)


def replace_scores(group: Group, ranks: tuple[int, ...]) -> Group:
    """Return the group with its documents at other places of the fused list."""
    z = np.linspace(1.6, -1.6, len(ranks))
    scores = tuple(float(z[rank - 1]) for rank in ranks)
    return replace(group, ranks=ranks, fused_z=scores)


def test_a_word_that_neither_leg_sees_is_learnt_from_the_groups_alone(
    tiny: RerankingConfig,
) -> None:
    one = trainer(tiny)
    done = one.train(TRAINED, HELD_OUT)
    blend = BlendConfig(weight=done.weight, bound=SMALL.bound)
    found = blended_ranks(HELD_OUT, one.logits(HELD_OUT), blend)
    before = float(ndcg(fused_ranks(HELD_OUT)).mean())
    assert before < 0.7
    assert float(ndcg(found).mean()) > before + 0.25
    losses = dict(done.losses)
    assert losses[done.best_step] == min(losses.values()) < losses[0] / 2


def test_one_seed_gives_one_file_whatever_the_number_of_threads(
    tiny: RerankingConfig, tmp_path: Path
) -> None:
    contents = []
    for run, (seed, threads) in enumerate([(0, 1), (0, 1), (0, 2), (1, 1)]):
        one = trainer(tiny, replace(SHORT, seed=seed), threads=threads)
        one.train(TRAINED)
        write_folder(tmp_path / str(run), one.difference(), card(tiny))
        contents.append((tmp_path / str(run) / WEIGHTS).read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert contents[0] != contents[3]


def test_where_training_only_harms_the_weights_from_before_are_kept(
    tiny: RerankingConfig,
) -> None:
    """Groups held out whose fused order is right: any change makes it worse."""
    right = [
        replace_scores(group, tuple(range(1, len(group.documents) + 1)))
        for group in HELD_OUT
    ]
    wrong = [
        replace_scores(group, tuple(range(len(group.documents), 0, -1)))
        for group in marked_groups(40, seed=3, shuffled=True)
    ]
    one = trainer(tiny, replace(SMALL, steps=12, check_every=3, patience=2))
    done = one.train(wrong, right)
    assert done.ending == "no more gain"
    assert done.steps < 12
    assert (done.best_step, one.difference()) == (0, {})


def test_a_clock_may_end_training_early_and_that_is_told(
    tiny: RerankingConfig,
) -> None:
    ticks = iter(range(1000))
    one = trainer(tiny, SHORT, clock=lambda: float(next(ticks)))
    done = one.train(TRAINED, seconds=1.0)
    assert (done.ending, done.steps) == ("time", 1)
    assert trainer(tiny, SHORT).train(TRAINED).ending == "steps"


def test_progress_tells_steps_and_losses(tiny: RerankingConfig) -> None:
    heard: list[Progress] = []
    trainer(tiny, SHORT).train(TRAINED, HELD_OUT[:2], report=heard.append)
    assert [one.step for one in heard if one.held_out is not None] == [0, 2, 4]
    assert all(one.steps == SHORT.steps for one in heard)
    assert heard[1].loss > 0
    assert heard[1].fused > 0


def test_the_first_loss_is_that_of_the_fused_scores_and_of_their_imitation(
    tiny: RerankingConfig,
) -> None:
    """By hand: with all logits 0 the blended list is softmax(z)."""
    settings = replace(SHORT, steps=1)
    heard: list[Progress] = []
    trainer(tiny, settings).train(TRAINED, HELD_OUT[:4], report=heard.append)
    z = torch.tensor([group.fused_z for group in HELD_OUT[:4]])
    expected = -torch.log_softmax(z, dim=1)[:, 0].mean().item()
    assert heard[0].held_out == pytest.approx(expected, rel=1e-5)


def test_a_learning_rate_that_diverges_is_one_clear_error(
    tiny: RerankingConfig,
) -> None:
    settings = replace(SHORT, learning_rate=1e30, warm_up=1, scale_rate=1e30)
    with pytest.raises(ModelError, match="diverged at step"):
        trainer(tiny, settings).train(TRAINED)


def test_no_group_is_refused(tiny: RerankingConfig) -> None:
    with pytest.raises(UsageError, match="no group"):
        trainer(tiny, SHORT).train([])


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"hard_taken": 8}, {"learning_rate": 0.0}, {"bound": float("nan")}],
)
def test_numbers_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        TrainingConfig(**change)  # type: ignore[arg-type]


def test_the_learning_rate_rises_then_falls_and_imitation_gives_way() -> None:
    config = TrainingConfig(steps=100, warm_up=10)
    rates = np.array([config.rate(step) for step in range(100)])
    assert rates.argmax() in (8, 9)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.02)
    shares = [config.imitation_share(step) for step in (0, 10, 50, 99)]
    assert shares == pytest.approx([1.0, 0.7, 0.1, 0.1])
