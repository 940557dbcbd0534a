"""Any model of the hub works by its id; its facts come from its own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hub_parts import COMMIT, LATER, Site
from tiny_models import WIDTH, WINDOW, save_dense, save_reranker, save_splade

from processor.ultimate_embedder.encoders.cross_encoder import TorchCrossEncoder
from processor.ultimate_embedder.encoders.splade import SpladeEncoder
from processor.ultimate_embedder.encoders.splade_source import find_splade
from processor.ultimate_embedder.errors import (
    ModelError,
    ModelNotAvailable,
    UnknownModel,
    UsageError,
)
from processor.ultimate_embedder.models.catalogue import KAGGLE_OPTIMIZED_MODELS
from processor.ultimate_embedder.models.choice import (
    choose_dense,
    choose_rerank,
    choose_sparse,
)
from processor.ultimate_embedder.models.lock import NO_LOCK, write_lock
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.settings import resolve


def settled(directory: Path, **typed: object) -> object:
    given = {key: (value, f"--{key}") for key, value in typed.items()}
    return resolve(given, directory=directory, environment={}).pipeline


def test_the_facts_of_a_hub_id_are_those_of_its_own_files(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/tiny", save_dense(tmp_path / "tiny", query="ask: "))
    found = choose_dense("acme/tiny", offline=False)
    assert (found.name, found.hf_model_id) == ("tiny", "acme/tiny")
    assert (found.vector_dim, found.max_tokens) == (WIDTH, WINDOW - 16)
    assert (found.pooling, found.query_prefix, found.document_prefix) == (
        "cls",
        "ask: ",
        "",
    )
    assert site.downloads("model.safetensors") == 0  # small files first


def test_a_model_of_the_hub_embeds_and_then_does_so_without_a_connection(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/tiny", save_dense(tmp_path / "tiny", query="ask: "))
    config = choose_dense("acme/tiny", offline=False)
    manager = ModelManager()
    tokenizer = manager.tokenizer(config)
    ids = tokenizer.encode(["word1 word2"], "document").ids
    with manager.resident(config, dtype="float32") as encoder:
        online = encoder.encode(ids)
    assert np.linalg.norm(online[0]) == pytest.approx(1)
    site.asked.clear()
    again = choose_dense("acme/tiny", offline=True)
    assert again == config
    with ModelManager(offline=True).resident(again, dtype="float32") as encoder:
        assert np.array_equal(encoder.encode(ids), online)
    assert site.asked == []


def test_a_splade_model_and_a_reranker_of_the_hub_work_too(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/wordy", save_splade(tmp_path / "wordy"))
    site.publish("acme/judge", save_reranker(tmp_path / "judge"))
    sparse = choose_sparse("acme/wordy", offline=False)
    assert (sparse.kind, sparse.name, sparse.max_tokens) == ("splade", "wordy", WINDOW)
    source = find_splade(sparse)
    assert source.location.revision == COMMIT
    assert SpladeEncoder.load(source).encode_query("word3").indices.size
    rerank = choose_rerank("acme/judge", offline=False)
    scorer = TorchCrossEncoder.load(rerank, dtype="float32")
    assert scorer.score([("word1", "word2")]).shape == (1,)


def test_a_model_of_another_kind_is_refused(site: Site, tmp_path: Path) -> None:
    site.publish("acme/tiny", save_dense(tmp_path / "tiny"))
    site.publish("acme/two", save_reranker(tmp_path / "two", labels=2))
    with pytest.raises(ModelError, match="no masked language model"):
        choose_sparse("acme/tiny", offline=False)
    with pytest.raises(ModelError, match="no classifier with one output"):
        choose_rerank("acme/tiny", offline=False)
    with pytest.raises(ModelError, match="no classifier with one output"):
        choose_rerank("acme/two", offline=False)


def test_offline_an_id_that_is_not_cached_is_one_line_with_its_cure(
    cache: Path,
) -> None:
    with pytest.raises(ModelNotAvailable, match="acme/tiny are not on this") as raised:
        choose_dense("acme/tiny", offline=True)
    assert "models fetch acme/tiny" in (raised.value.cure or "")


def test_the_id_of_a_known_model_is_that_model() -> None:
    assert choose_dense("BAAI/bge-m3") is KAGGLE_OPTIMIZED_MODELS["bge-m3"]
    pinned = choose_dense(f"bge-m3@{COMMIT}")
    assert (pinned.name, pinned.revision) == ("bge-m3", COMMIT)


def test_a_name_that_the_registry_has_is_not_taken_by_another_model(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/bge-m3", save_dense(tmp_path / "tiny"))
    assert choose_dense("acme/bge-m3", offline=False).name == "acme--bge-m3"


def test_a_revision_can_be_named(site: Site, tmp_path: Path) -> None:
    folder = save_dense(tmp_path / "tiny")
    site.publish("acme/tiny", folder)
    site.publish("acme/tiny", folder, commit=LATER, reference="refs/pr/7")
    found = choose_dense("acme/tiny@refs/pr/7", offline=False)
    assert found.revision == "refs/pr/7"
    location = ModelManager().locate(found)
    assert (location.revision, location.pinned) == (LATER, False)
    assert ModelManager(offline=True).locate(found).revision == LATER


def test_the_settings_take_ids_and_fetch_only_where_that_is_allowed(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/tiny", save_dense(tmp_path / "tiny"))
    with pytest.raises(ModelNotAvailable, match="offline"):
        settled(tmp_path, ensemble_models="acme/tiny")  # embedded is offline
    pipeline = settled(tmp_path, ensemble_models="acme/tiny", offline=False)
    assert [model.hf_model_id for model in pipeline.dense] == ["acme/tiny"]
    with pytest.raises(UnknownModel, match=r"--ensemble_models: .*ORG/NAME"):
        settled(tmp_path, ensemble_models="no-such-model")


def test_a_lock_that_is_named_pins_the_models_of_a_run(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/tiny", save_dense(tmp_path / "tiny"))
    lock = tmp_path / "models.lock.json"
    write_lock(lock, NO_LOCK.with_commit("acme/tiny", None, COMMIT))
    pipeline = settled(
        tmp_path, ensemble_models="acme/tiny", offline=False, models_lock=lock
    )
    assert pipeline.primary.revision == COMMIT
    assert ModelManager().locate(pipeline.primary).pinned
    with pytest.raises(UsageError, match="no lock of models"):
        settled(tmp_path, models_lock=tmp_path / "absent.json")


def test_trust_is_off_and_is_given_by_name_alone(tmp_path: Path) -> None:
    assert not any(model.trust_remote_code for model in settled(tmp_path).dense)
    pipeline = settled(
        tmp_path,
        ensemble_models="all-miniLM-l6,nomic-coderank",
        trust_remote_code="nomic-coderank",
    )
    assert [model.trust_remote_code for model in pipeline.dense] == [False, True]
    told = {entry.key: entry.value for entry in pipeline.provenance}
    assert told["trust_remote_code"] == "nomic-coderank"
    with pytest.raises(UsageError, match="bge-m3, which this run does not load"):
        settled(tmp_path, trust_remote_code="bge-m3")
