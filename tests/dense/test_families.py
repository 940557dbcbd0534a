"""Every architecture loads through one path and agrees with transformers alone."""

from __future__ import annotations

import gc
import json
import random
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from family_parts import FAMILIES, WINDOW, reference, save_family, some_texts
from transformers import AutoModel, T5Config

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.out_of_memory import out_of_memory_named
from processor.ultimate_embedder.errors import (
    DeviceOutOfMemory,
    ModelError,
    ModelMismatch,
)
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import UInt32Array


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ModelConfig:
    return save_family(tmp_path_factory.mktemp("families"), request.param)


def ids_of(config: ModelConfig, number: int = 24) -> list[UInt32Array]:
    tokenised = ModelManager().tokenizer(config).encode(some_texts(number), "document")
    return list(tokenised.ids)


def test_each_family_agrees_with_transformers_alone_whatever_the_neighbours(
    family: ModelConfig,
) -> None:
    ids = ids_of(family)
    assert max(map(len, ids)) == WINDOW
    with ModelManager().resident(family, dtype="float32") as encoder:
        found = encoder.encode(ids)
    expected = reference(family, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cosines = expected @ expected.T
    assert cosines[np.triu_indices(len(ids), 1)].min() < 0.99, "the texts are all alike"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bytes_of_each_family_depend_on_the_text_alone(
    family: ModelConfig, dtype: str
) -> None:
    ids = ids_of(family, 16)
    order = list(range(len(ids)))
    random.Random(3).shuffle(order)
    with ModelManager().resident(family, dtype=dtype) as encoder:
        together = encoder.encode(ids)
        shuffled = encoder.encode([ids[i] for i in order])
        alone = np.concatenate([encoder.encode([row]) for row in ids])
    assert together.tobytes() == alone.tobytes()
    assert together[order].tobytes() == shuffled.tobytes()


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_agrees_with_a_batch_padded_on_either_side(
    tmp_path: Path, name: str, side: str
) -> None:
    """As the model's cards pad: positions count from a text's first token."""
    config = save_family(tmp_path, name)
    ids = ids_of(config, 8)
    length = max(map(len, ids))
    inputs = np.ones((len(ids), length), dtype=np.int64)
    mask = np.zeros_like(inputs)
    for i, row in enumerate(ids):
        place = slice(length - len(row), None) if side == "left" else slice(len(row))
        inputs[i, place], mask[i, place] = row, 1
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    last = length - 1 if side == "left" else mask.sum(axis=1) - 1
    with torch.inference_mode():
        states = model(
            input_ids=torch.from_numpy(inputs), attention_mask=torch.from_numpy(mask)
        )[0].numpy()[np.arange(len(ids)), last]
    expected = states / np.linalg.norm(states, axis=1, keepdims=True)
    with ModelManager().resident(config, dtype="float32") as encoder:
        np.testing.assert_allclose(encoder.encode(ids), expected, atol=1e-4)


def test_another_width_is_refused_for_each_family(family: ModelConfig) -> None:
    wrong = replace(family, vector_dim=family.vector_dim + 1)
    with pytest.raises(ModelMismatch, match="32-d vectors; the registry says 33"):
        ModelManager().resident(wrong).__enter__()


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_positions_before_the_first_token_are_not_counted_as_window(
    tmp_path: Path, name: str
) -> None:
    config = save_family(tmp_path, name)
    wrong = replace(config, max_tokens=WINDOW + 1)
    with pytest.raises(ModelMismatch, match=f"has {WINDOW} positions"):
        ModelManager().resident(wrong).__enter__()


def test_weights_of_another_shape_than_stated_are_refused(tmp_path: Path) -> None:
    config = save_family(tmp_path, "bert")
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text()) | {"intermediate_size": 40}
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelMismatch, match="other shapes"):
        ModelManager().resident(config).__enter__()


def test_a_model_that_brings_code_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = save_family(tmp_path, "bert")
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["model_type"] = "nobody_knows"
    settings["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="brings code of its own, which is not run"):
        ModelManager().resident(config).__enter__()
    assert not ran.exists()


def test_layers_after_pooling_are_refused_not_left_out(tmp_path: Path) -> None:
    config = save_family(tmp_path, "bert")
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelMismatch, match="further module, dense"):
        ModelManager().resident(config).__enter__()


def test_a_module_of_the_models_own_is_refused_whatever_it_is_called(
    tmp_path: Path,
) -> None:
    config = save_family(tmp_path, "bert")
    (tmp_path / "modules.json").write_text('[{"type": "custom_st.Transformer"}]')
    with pytest.raises(ModelMismatch, match=r"further module, custom_st\.Transformer"):
        ModelManager().resident(config).__enter__()


def test_an_encoder_with_a_decoder_is_refused_by_name(tmp_path: Path) -> None:
    AutoModel.from_config(
        T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    ).save_pretrained(tmp_path)
    config = ModelConfig("t5", str(tmp_path), vector_dim=32, max_tokens=64)
    with pytest.raises(ModelError, match="family t5, an encoder with a decoder"):
        ModelManager().resident(config).__enter__()


def test_only_bert_like_models_give_attention(family: ModelConfig) -> None:
    ids = ids_of(family, 6)
    with ModelManager().resident(family) as encoder:
        if "bert" in family.name and family.name not in ("nomic-bert", "modernbert"):
            _, attention = encoder.encode_with_attention(ids)
            assert [len(row) for row in attention] == [len(row) for row in ids]
        else:
            with pytest.raises(ModelError, match="is not BERT-like"):
                encoder.encode_with_attention(ids)


def test_weights_are_gone_after_the_block_even_if_the_encoder_is_kept(
    tmp_path: Path,
) -> None:
    config = save_family(tmp_path, "qwen3")
    with ModelManager().resident(config) as encoder:
        model = weakref.ref(encoder._model)  # type: ignore[attr-defined]
        weight = weakref.ref(next(iter(model().parameters())))  # type: ignore[union-attr, misc]
    gc.collect()
    assert model() is None
    assert weight() is None
    assert encoder.dimension == config.vector_dim


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:30] or type(error).__name__,
)
def test_every_kind_of_out_of_memory_has_one_name(error: Exception) -> None:
    with (
        pytest.raises(
            DeviceOutOfMemory, match="m ran out of memory on cuda:0"
        ) as found,
        out_of_memory_named("m", "cuda:0"),
    ):
        raise error
    assert found.value.__cause__ is error


def test_other_errors_pass_the_border_as_they_are() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as found, out_of_memory_named("m", "cpu"):
        raise error
    assert found.value is error
