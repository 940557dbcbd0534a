"""The registry's facts agree with one another, and with the shapes they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from processor.ultimate_embedder.config import DEFAULT_GPU_MEMORY_CAP_BYTES, GIB
from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.encoders.sources import locate_model
from processor.ultimate_embedder.memory_cost import Architecture
from processor.ultimate_embedder.models import catalogue
from processor.ultimate_embedder.models.facts import read_facts
from processor.ultimate_embedder.models.lock import is_commit
from processor.ultimate_embedder.models.shapes import SHAPES, STORED_BYTES
from processor.ultimate_embedder.settings import resolve

ALL = {
    **catalogue.KAGGLE_OPTIMIZED_MODELS,
    **catalogue.SPARSE_MODELS,
    **catalogue.RERANKING_MODELS,
}
_CLASSES = {
    ("bert", "none"): "BertModel",
    ("bert", "masked-lm"): "BertForMaskedLM",
    ("bert", "classifier"): "BertForSequenceClassification",
    ("xlm-roberta", "none"): "XLMRobertaModel",
    ("xlm-roberta", "classifier"): "XLMRobertaForSequenceClassification",
    ("nomic_bert", "none"): "NomicBertModel",
    ("qwen2", "none"): "Qwen2Model",
    ("qwen3", "none"): "Qwen3Model",
}


def made_of(shape: Architecture) -> Any:
    """Return the model that transformers makes of a shape, without any weights."""
    cls = getattr(transformers, _CLASSES[shape.family, shape.head])
    more: dict[str, Any] = {}
    if shape.family in ("qwen2", "qwen3"):
        more = {"num_key_value_heads": shape.kv_heads}
    if shape.family == "qwen3":
        more["head_dim"] = shape.head_size
    if shape.family == "xlm-roberta":
        more = {"max_position_embeddings": 8194, "type_vocab_size": 1}
    with torch.device("meta"):
        return cls(
            cls.config_class(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_labels=1,
                **more,
            )
        )


@pytest.mark.parametrize("key", SHAPES)
def test_a_shape_has_as_many_parameters_as_the_model_it_stands_for(key: str) -> None:
    shape = SHAPES[key]
    model = made_of(shape)
    assert sum(one.numel() for one in model.parameters()) == shape.parameters


@pytest.mark.parametrize("key", catalogue.KAGGLE_OPTIMIZED_MODELS)
def test_a_dense_models_width_is_that_of_its_shape(key: str) -> None:
    assert catalogue.dense_model(key).vector_dim == SHAPES[key].hidden


def test_the_shape_of_the_model_that_is_here_is_that_of_its_files() -> None:
    known = catalogue.dense_model("all-miniLM-l6")
    found = locate_model(known.hf_model_id, package=known.package, offline=True)
    assert read_architecture(found.path, "none") == SHAPES[known.name]
    facts = read_facts(found.path)
    assert (facts.width, facts.window) == (known.vector_dim, known.max_tokens)
    assert (facts.pooling, facts.query_prompt) == (known.pooling, known.query_prefix)


@pytest.mark.parametrize("key", ALL)
def test_a_model_says_what_must_be_known_of_it(key: str) -> None:
    model = ALL[key]
    assert model.licence != "unknown"
    assert not model.trust_remote_code
    dtype = model.published_dtype
    assert dtype in (*STORED_BYTES, None)
    revision = model.revision
    assert revision is None or is_commit(revision) or revision.startswith("refs/")


def test_models_of_the_hub_without_a_commit_are_these() -> None:
    """A lock pins them; the registry would have to invent their commits."""
    loose = {key for key, model in ALL.items() if not is_commit(model.revision)}
    no_files = {"qdrant-bm25", "qdrant-minilm-attention", "residual-minilm-l6"}
    assert loose - no_files == {"bge-m3", "jina-code-embeddings-1.5b", "splade-v3"}


def test_the_listwise_reranker_is_known_as_one() -> None:
    models = catalogue.RERANKING_MODELS.values()
    assert [one.name for one in models if one.listwise] == ["jina-reranker-v3"]


@pytest.mark.parametrize("name", catalogue.PROFILES)
def test_a_profile_is_a_roster_of_known_models_with_limits(
    name: str, tmp_path: Path
) -> None:
    settings = resolve(
        {"profile": (name, "--profile")}, directory=tmp_path, environment={}
    )
    pipeline, roster = settings.pipeline, catalogue.profile(name)
    assert tuple(model.name for model in pipeline.dense) == roster.dense
    assert tuple(model.name for model in pipeline.sparse) == roster.sparse
    assert pipeline.rerank is not None
    assert pipeline.rerank.name == roster.rerank
    assert not pipeline.rerank.listwise
    cap = roster.gpu_memory_cap_bytes or DEFAULT_GPU_MEMORY_CAP_BYTES
    assert pipeline.gpu.memory_cap_bytes == cap
    assert pipeline.offline is (name == "embedded")


def test_the_profile_of_a_small_card_leaves_room_below_its_size(
    tmp_path: Path,
) -> None:
    typed: dict[str, tuple[object, str]] = {"profile": ("single-gpu-12g", "--profile")}
    small = resolve(typed, directory=tmp_path, environment={}).pipeline
    assert small.gpu.memory_cap_bytes == 11 * GIB
    typed["gpu_memory_cap"] = ("10", "--gpu-memory-cap")
    asked = resolve(typed, directory=tmp_path, environment={}).pipeline
    assert asked.gpu.memory_cap_bytes == 10 * GIB


def test_licences_of_the_profiles_allow_commercial_use() -> None:
    for profile in catalogue.PROFILES.values():
        for key in (*profile.dense, *profile.sparse, profile.rerank):
            assert "NC" not in ALL[key].licence
