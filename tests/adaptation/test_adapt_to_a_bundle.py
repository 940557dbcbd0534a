"""Adapting to a bundle: what is learnt on some probes is judged on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adaptation_parts import SMALL, build_bundle, write_collection

from processor.ultimate_embedder.adaptation import schedule
from processor.ultimate_embedder.adaptation.bundle_probes import (
    LegsOf,
    manifest_legs,
    rank_probes,
    split,
)
from processor.ultimate_embedder.adaptation.choices import AdaptChoices
from processor.ultimate_embedder.adaptation.from_bundle import adapt
from processor.ultimate_embedder.adaptation.report import AdaptReport
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.weight_difference import read_card
from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.models.choice import choose_rerank
from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.search.parts import open_parts
from processor.ultimate_embedder.testing import HashingModels

CHOICES = AdaptChoices(steps=40, offline=True, settings=SMALL)
Adapt = Callable[..., AdaptReport]


def legs(bundle: Path) -> LegsOf:
    return manifest_legs(open_parts(bundle), HashingModels(offline=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle whose answers hold the mark."""
    root = tmp_path_factory.mktemp("marked")
    write_collection(root / "chunked")
    build_bundle(root)
    return root


@pytest.fixture(scope="module")
def kept(place: Path, tiny: RerankingConfig) -> AdaptReport:
    """Return what adapting to that bundle came to."""
    bundle = place / "out" / "docs"
    return adapt(bundle, place / "adapted", CHOICES, legs_of=legs(bundle), origin=tiny)


def test_what_helps_on_probes_not_trained_on_is_kept(
    place: Path, kept: AdaptReport, tiny: RerankingConfig
) -> None:
    assert kept.better
    assert kept.decision.startswith("kept: +")
    assert kept.folder == str(place / "adapted")
    assert kept.stages["adapted"].value > kept.stages["fused"].value + 0.05
    assert kept.comparison.p < 0.05
    assert kept.trained + kept.chosen + kept.judged == kept.probes == 90
    config = choose_rerank(str(place / "adapted"))
    assert str(config.blend) == kept.blend
    assert config.candidates == kept.candidates == 60
    assert config.hf_model_id == tiny.hf_model_id


def test_its_card_and_readme_tell_what_was_done(place: Path, kept: AdaptReport) -> None:
    card = read_card(place / "adapted")
    assert card.training["steps_done"] == 40
    assert card.training["collection"] == "docs"
    assert card.training["seed"] == 0
    text = (place / "adapted" / "README.md").read_text(encoding="utf-8")
    assert kept.decision in text
    assert str(kept.stages["adapted"]) in text


def test_a_bundle_with_a_reranker_is_adapted_from_it_and_compared_with_it(
    place: Path, kept: AdaptReport
) -> None:
    assert kept.reranker is None
    bundle = build_bundle(place, choose_rerank(str(place / "adapted")))
    again = adapt(bundle, place / "again", CHOICES, legs_of=legs(bundle))
    assert again.reranker == again.started_from == "adapted"
    assert set(again.stages) == {"fused", "reranked", "adapted"}
    assert again.comparison.against == "reranked"
    assert again.training["scale"] == kept.training["scale"]  # whatever the blend
    assert again.stages["reranked"].value == pytest.approx(
        kept.stages["adapted"].value, abs=0.02
    )


def test_labels_that_cannot_be_learnt_are_not_kept_and_nothing_is_written(
    tmp_path: Path, tiny: RerankingConfig
) -> None:
    write_collection(tmp_path / "chunked", shuffled=True)
    bundle = build_bundle(tmp_path)
    target = tmp_path / "adapted"
    choices = replace(CHOICES, steps=20)
    found = adapt(bundle, target, choices, legs_of=legs(bundle), origin=tiny)
    assert found.decision.startswith("not kept: no gain")
    assert found.folder is None
    assert not target.exists()
    choices = replace(choices, steps=2, keep_anyway=True)
    found = adapt(bundle, target, choices, legs_of=legs(bundle), origin=tiny)
    assert found.decision.startswith("written although not better")
    assert choose_rerank(str(target)).blend is not None


def test_few_probes_are_refused_with_their_number(
    tmp_path: Path, tiny: RerankingConfig
) -> None:
    write_collection(tmp_path / "chunked", topics=20, plain=1)
    bundle = build_bundle(tmp_path)
    with pytest.raises(UsageError, match=r"Only 20 probes.*needs 60"):
        adapt(bundle, tmp_path / "new", CHOICES, legs_of=legs(bundle), origin=tiny)


def test_answers_that_no_search_would_rerank_are_refused(
    place: Path, tmp_path: Path, tiny: RerankingConfig
) -> None:
    bundle = place / "out" / "docs"
    few = replace(tiny, candidates=2, top_k=2)
    with pytest.raises(UsageError, match="among its first 2 candidates"):
        adapt(bundle, tmp_path / "new", CHOICES, legs_of=legs(bundle), origin=few)


def test_probes_are_split_by_their_ids_alone(place: Path) -> None:
    parts = open_parts(place / "out" / "docs")
    found = rank_probes(parts, legs(place / "out" / "docs"), 1000, 0)
    whole = split(found)
    names = [{one.query.query_id for one in part} for part in _parts(whole)]
    assert sum(map(len, names)) == len(set.union(*names)) == 90
    assert 0.15 < len(names[2]) / 90 < 0.45
    some = split(found[::2])
    for part, all_of_them in zip(_parts(some), names, strict=True):
        assert {one.query.query_id for one in part} <= all_of_them


def test_every_candidate_is_read_without_its_heading_as_the_answer_is(
    place: Path,
) -> None:
    """Else an answer could be told by the heading that it lacks."""
    parts = open_parts(place / "out" / "docs")
    found = rank_probes(parts, legs(place / "out" / "docs"), 1000, 0)
    groups = [one.group for one in found if one.group is not None]
    assert len(groups) > 60
    headed = sum(
        line["payload"]["text"].startswith("##") for line in parts.points or ()
    )
    assert headed == 90
    assert not any("##" in text for group in groups for text in group.documents)


def test_probes_are_ranked_as_the_run_that_built_the_bundle_ranked_them(
    place: Path,
) -> None:
    """The manifest's card has 200 probes at most, so all of these 90."""
    parts = open_parts(place / "out" / "docs")
    found = rank_probes(parts, legs(place / "out" / "docs"), 1000, 0)
    ranks = [one.group.ranks[0] if one.group else None for one in found]
    recall = sum(rank is not None and rank <= 10 for rank in ranks) / len(ranks)
    run = parts.manifest.fusion_run
    assert run is not None
    assert run.quality["fused"]["Recall@10"] == pytest.approx(recall, abs=1e-6)


def test_probes_are_ranked_as_deep_as_a_search_of_so_many_candidates(
    place: Path,
) -> None:
    parts = open_parts(place / "out" / "docs")
    for candidates, depth in ((60, 100), (150, 150)):
        found = rank_probes(parts, legs(place / "out" / "docs"), 5, 0, candidates)
        assert {len(one.lists.lists[0]) for one in found} == {depth}


def test_what_was_adapted_reranks_a_search(place: Path, kept: AdaptReport) -> None:
    config = choose_rerank(str(kept.folder))
    with open_bundle(place / "out" / "docs", offline=True, rerank=config) as bundle:
        hits = bundle.search("How zuaakra behaves here", stage="reranked")
    assert hits


@pytest.mark.parametrize("name", ["residual-minilm-l6", "a b", "Ünder"])
def test_a_name_that_could_not_be_used_is_refused_before_any_work(
    place: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot name a reranker"):
        adapt(place / "out" / "docs", tmp_path / name, CHOICES)


def test_what_is_there_already_is_not_replaced(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty") as caught:
        adapt(place / "out" / "docs", tmp_path / "mine", CHOICES)
    assert "--output" in str(caught.value)


def test_minutes_become_steps_by_the_speed_measured(
    place: Path, tmp_path: Path, tiny: RerankingConfig, monkeypatch: Any
) -> None:
    monkeypatch.setattr(schedule, "_seconds_a_step", lambda *_: 2.0)
    bundle = place / "out" / "docs"
    choices = replace(CHOICES, steps=None, minutes=0.1)
    found = adapt(bundle, tmp_path / "new", choices, legs_of=legs(bundle), origin=tiny)
    assert found.training["steps"] == 3
    with pytest.raises(UsageError, match="exclude each other"):
        AdaptChoices(steps=1, minutes=1.0)


def _parts(divided: Any) -> tuple[Any, ...]:
    return divided.trained, divided.chosen, divided.judged
