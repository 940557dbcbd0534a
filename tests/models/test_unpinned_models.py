"""A run says which commit it took where nothing pins one, once, and in the manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hub_parts import COMMIT, Site
from tiny_models import save_dense, save_reranker, save_splade

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.models_fetch import fetch_models
from processor.ultimate_embedder.config import KaggleGPUConfig, PipelineConfig
from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.models.catalogue import rerank_model
from processor.ultimate_embedder.models.choice import (
    choose_dense,
    choose_rerank,
    choose_sparse,
)
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.run.usable_models import usable_models
from processor.ultimate_embedder.search.loading import dense_config
from processor.ultimate_embedder.telemetry.events import Warned
from processor.ultimate_embedder.testing import RecordingListener

IDS = ("acme/tiny", "acme/wordy", "acme/judge")


@pytest.fixture
def published(site: Site, tmp_path: Path) -> Site:
    site.publish("acme/tiny", save_dense(tmp_path / "tiny"))
    site.publish("acme/wordy", save_splade(tmp_path / "wordy"))
    site.publish("acme/judge", save_reranker(tmp_path / "judge"))
    return site


def config(root: Path, *, offline: bool = False) -> PipelineConfig:
    return PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / "out",
        dense=(choose_dense("acme/tiny", offline=offline),),
        sparse=(choose_sparse("acme/wordy", offline=offline),),
        rerank=choose_rerank("acme/judge", offline=offline),
        offline=offline,
        gpu=KaggleGPUConfig(backend="cpu", workers=1),
    )


def warned(pipeline: PipelineConfig) -> tuple[PipelineConfig, list[str]]:
    said: list[str] = []
    manager = ModelManager(offline=pipeline.offline)
    return usable_models(pipeline, manager, said.append), said


def test_each_model_without_a_pin_is_told_with_its_commit_and_the_cure(
    published: Site, tmp_path: Path
) -> None:
    usable, said = warned(config(tmp_path))
    assert len(said) == 3
    for message, model in zip(said, IDS, strict=True):
        assert COMMIT in message
        assert f"'models fetch {model}'" in message
    assert usable.rerank is not None
    assert usable.rerank.revision == COMMIT


def test_after_a_fetch_nothing_is_told_and_nothing_is_asked(
    published: Site, tmp_path: Path
) -> None:
    assert run_function(fetch_models, list(IDS)) == 0
    published.asked.clear()
    _, said = warned(config(tmp_path, offline=True))
    assert (said, published.asked) == ([], [])


def test_models_of_a_package_are_pinned_by_their_sum(tmp_path: Path) -> None:
    pipeline = replace(
        PipelineConfig(
            chunked_dir=tmp_path, output_dir=tmp_path, dense=(choose_dense(KNOWN),)
        ),
        offline=True,
    )
    assert warned(pipeline) == (pipeline, [])


KNOWN = "all-miniLM-l6"


def test_a_reranker_that_cannot_be_had_does_not_stop_a_run(
    cache: Path, tmp_path: Path
) -> None:
    pipeline = PipelineConfig(
        chunked_dir=tmp_path,
        output_dir=tmp_path,
        dense=(choose_dense(KNOWN),),
        rerank=rerank_model("bge-reranker-v2-m3"),
        offline=True,
    )
    usable, said = warned(pipeline)
    assert usable.rerank == pipeline.rerank
    assert said == []


def test_a_companion_that_cannot_be_had_is_left_out_where_that_is_allowed(
    cache: Path, tmp_path: Path
) -> None:
    pipeline = PipelineConfig(
        chunked_dir=tmp_path,
        output_dir=tmp_path,
        dense=(choose_dense(KNOWN), choose_dense("nomic-coderank")),
        offline=True,
    )
    with pytest.raises(ModelNotAvailable, match="CodeRankEmbed"):
        warned(pipeline)
    usable, said = warned(replace(pipeline, skip_failed_models=True))
    assert [model.name for model in usable.dense] == [KNOWN]
    assert said[0].startswith("Model nomic-coderank is skipped")


def test_a_model_that_states_no_pooling_is_told_of_with_the_one_taken(
    tmp_path: Path,
) -> None:
    folder = save_dense(tmp_path / "tiny")

    def said_of() -> list[str]:
        dense = (choose_dense(str(folder)),)
        return warned(
            PipelineConfig(chunked_dir=tmp_path, output_dir=tmp_path, dense=dense)
        )[1]

    assert said_of() == []
    stated = folder / "1_Pooling" / "config.json"
    stated.unlink()
    [message] = said_of()
    assert "Model tiny does not say how its states are pooled: mean" in message
    assert str(stated) in message


@pytest.mark.slow
def test_a_run_records_commit_and_warning_and_search_takes_that_commit(
    published: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "chunked" / "docs" / "guide"
    folder.mkdir(parents=True)
    texts = [f"word{n} word{n + 1} word{n + 2}" for n in range(8)]
    entries = json.dumps([{"text": text} for text in texts])
    (folder / "a_chunks.json").write_text(entries)
    heard = RecordingListener()
    pipeline = config(tmp_path)
    [outcome] = BatchRunner(pipeline, heard, "run-1").run().collections
    assert outcome.error is None
    manifest = Manifest.read(tmp_path / "out" / "docs")
    [dense] = manifest.dense_run or ()
    assert (dense.revision, dense.hf_model_id) == (COMMIT, "acme/tiny")
    assert dense.statistics["pinned"] is False
    [told] = [w for w in manifest.warnings if "acme/tiny" in w]
    assert [one.message for one in heard.of(Warned)].count(told) == 1
    assert dense_config(dense).revision == COMMIT
