"""A model's shape from its files alone, for every family, and from damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from memory_parts import FAMILIES, MEDIUM, TINY, VOCABULARY, save_family
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.errors import ModelError


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_are_those_of_the_model_that_loads(family: str, tmp_path: Path) -> None:
    save_family(tmp_path, family, MEDIUM)
    found = read_architecture(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert found.parameters == parameters(model)
    assert (found.layers, found.hidden) == (3, MEDIUM.hidden)
    assert (found.intermediate, found.heads) == (MEDIUM.intermediate, MEDIUM.heads)
    assert found.vocabulary == VOCABULARY
    shared = family.startswith("qwen")
    assert found.kv_heads == (MEDIUM.heads // 2 if shared else MEDIUM.heads)
    doubled = 2 if family == "qwen3" else 1
    assert found.head_size == doubled * MEDIUM.hidden // MEDIUM.heads
    plain = family in ("bert", "xlm-roberta", "distilbert")
    assert found.gated != plain
    assert found.known


@pytest.mark.parametrize(
    ("make", "head"),
    [(BertForMaskedLM, "masked-lm"), (BertForSequenceClassification, "classifier")],
)
def test_a_head_is_counted_where_it_is_loaded_alone(
    make: Callable[[BertConfig], torch.nn.Module], head: str, tmp_path: Path
) -> None:
    whole = make(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )
    whole.save_pretrained(tmp_path)
    found = read_architecture(tmp_path)
    assert found.head == head
    assert found.parameters == parameters(whole)
    bare = read_architecture(tmp_path, "none").parameters
    assert bare == sum(
        value.numel()
        for name, value in whole.named_parameters()
        if name.startswith("bert.")
    )


def test_the_head_of_a_language_model_is_not_counted_for_vectors(
    tmp_path: Path,
) -> None:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=2,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert read_architecture(tmp_path).parameters == parameters(loaded)


def test_shards_are_counted_together(tmp_path: Path) -> None:
    save_family(tmp_path / "one", "bert", MEDIUM)
    model = AutoModel.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="300KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert read_architecture(tmp_path / "many") == read_architecture(tmp_path / "one")


def test_weights_that_were_saved_in_16_bits_count_as_many(tmp_path: Path) -> None:
    save_family(tmp_path / "wide", "bert")
    model = AutoModel.from_pretrained(tmp_path / "wide")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert read_architecture(tmp_path / "half") == read_architecture(tmp_path / "wide")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "config.json").write_text('{"hidden_size": 32}'),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x08"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64),
        lambda folder: (folder / "model.safetensors").write_bytes(
            (2).to_bytes(8, "little") + b"[]"
        ),
        lambda folder: (folder / "model.safetensors").write_bytes(
            (9).to_bytes(8, "little") + b'{"a": {}}'
        ),
        lambda folder: (folder / "model.safetensors").rename(
            folder / "model.safetensors.index.json"
        ),
    ],
)
def test_files_that_say_no_shape_are_an_error_of_the_model(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    save_family(tmp_path, "bert", TINY)
    damage(tmp_path)
    with pytest.raises(ModelError) as caught:
        read_architecture(tmp_path)
    assert caught.value.cure


def test_a_family_nobody_knows_is_read_all_the_same(tmp_path: Path) -> None:
    save_family(tmp_path, "bert")
    path = tmp_path / "config.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({**stated, "model_type": "brand-new"}))
    found = read_architecture(tmp_path)
    assert found.family == "brand-new"
    assert not found.known
