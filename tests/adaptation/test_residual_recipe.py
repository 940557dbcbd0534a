"""The recipe of the shipped weights, from pools to a folder, on a tiny base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adaptation_parts import MARK, SMALL, WORDS

from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.weight_difference import WEIGHTS
from processor.ultimate_embedder.errors import InputError
from processor.ultimate_embedder.models.choice import choose_rerank
from processor.ultimate_embedder.testing import HashingModels
from training.residual_groups import GroupChoices, draw, pool_groups, pool_sha256
from training.train_residual import RESIDUAL, Recipe, gather, main, run

TINY = replace(SMALL, steps=30, check_every=30)
CHOICES = GroupChoices(queries=40, documents=150)
MODELS = HashingModels(offline=True)


def write_pool(folder: Path, seed: int, *, source: str = "question") -> Path:
    """Write a pool whose answers hold the mark; others tell more of the topic."""
    rng = np.random.default_rng(seed)
    corpus, queries = [], []
    for number in range(40):
        name = f"q{chr(97 + number // 26)}{chr(97 + number % 26)}{seed}zu"
        texts = [f"{name} {name} {' '.join(rng.choice(WORDS, 8))}" for _ in range(4)]
        texts[0] = f"{name} {MARK} {' '.join(rng.choice(WORDS, 12))}"
        corpus += [(f"{name}-{at}", text) for at, text in enumerate(texts)]
        queries.append((f"how {name} works", source, f"{name}-0"))
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": one, "text": text}) + "\n" for one, text in corpus)
    )
    (folder / "queries.jsonl").write_text(
        "".join(
            json.dumps(
                {"_id": f"q{at}", "text": text, "source": kind, "positive": answer}
            )
            + "\n"
            for at, (text, kind, answer) in enumerate(queries)
        )
    )
    return folder


@pytest.fixture
def make_recipe(tmp_path: Path, tiny: RerankingConfig) -> Callable[..., Recipe]:
    for seed, name in enumerate(("docs-1", "docs-2", "held-docs")):
        write_pool(tmp_path / "pools" / name, seed)

    def make(output: str) -> Recipe:
        return Recipe(
            pools=tmp_path / "pools",
            work=tmp_path / "groups",
            output=tmp_path / output,
            card=tmp_path / "data_card.json",
            settings=TINY,
            choices=CHOICES,
            origin=tiny,
            window=48,
        )

    return make


def test_pools_become_weights_that_help_on_a_pool_held_out(
    make_recipe: Callable[..., Recipe],
) -> None:
    recipe = make_recipe("new")
    card = run(recipe, MODELS, lambda _: None)
    judged = card.training["judged"]
    assert set(judged) == {"held-docs"}
    assert judged["held-docs"]["gain"] > 0
    assert set(card.training["pools"]) == {"docs-1", "docs-2", "held-docs"}
    assert card.training["steps_done"] == 30
    assert card.training["learning_rate"] == TINY.learning_rate
    assert str(choose_rerank(str(recipe.output)).blend) == card.blend
    assert (recipe.output / WEIGHTS).is_file()


def test_groups_hold_the_answer_and_what_the_legs_found(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "docs", 0)
    groups, asked = pool_groups(pool, CHOICES, MODELS)
    assert asked == 40
    assert len(groups) > 30
    assert all(MARK in group.documents[0] for group in groups)
    assert max(len(group.documents) for group in groups) <= 1 + 12 + 8
    again, _ = pool_groups(pool, CHOICES, MODELS)
    assert again == groups


def test_a_source_gives_a_limited_share_and_answers_are_among_the_documents(
    tmp_path: Path,
) -> None:
    pool = write_pool(tmp_path / "docs", 0, source="comment-cpp")
    asked, texts = draw(pool, replace(CHOICES, documents=30))
    assert len(asked) == 20
    assert len(texts) == 30
    assert all(MARK in texts[one.answer] for one in asked)


def test_pools_that_are_not_those_of_the_data_card_are_refused(
    make_recipe: Callable[..., Recipe],
) -> None:
    recipe = make_recipe("new")
    stated = pool_sha256(recipe.pools / "docs-1")
    pools = {"docs-1": {"sha256": stated}, "docs-2": {"sha256": stated}}
    recipe.card.write_text(json.dumps({"pools": pools}))
    with pytest.raises(InputError, match="docs-2 is not the one of the data card"):
        gather(recipe, MODELS, lambda _: None)


def test_weights_that_are_there_are_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / RESIDUAL).mkdir()
    (tmp_path / RESIDUAL / "config.json").write_text("{}")
    output = str(tmp_path / RESIDUAL)
    assert main([str(tmp_path / "pools"), "--output", output]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([str(tmp_path / "pools"), "--output", output, "--force"]) == 1
    assert "no pool" in capsys.readouterr().err
