"""float16 under the policy agrees with float32, also where plain float16 overflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_parts import FAMILIES, reference, save_family, some_texts
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.dense_torch import TorchDenseEncoder
from processor.ultimate_embedder.encoders.precision import (
    ScaledLinear,
    WideEmbedding,
    cuda_dtype,
)
from processor.ultimate_embedder.errors import ModelError
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import UInt32Array

FLOAT16_COSINE = 0.9999
"""What float16 keeps of a float32 vector's direction, for tiny models."""


def ids_of(config: ModelConfig) -> list[UInt32Array]:
    texts = some_texts(12)
    return list(ModelManager().tokenizer(config).encode(texts, "document").ids)


def enlarge(folder: Path, ending: str, factor: float) -> None:
    """Multiply the weights whose names end so."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    touched = [name for name in tensors if name.endswith(ending)]
    assert touched
    for name in touched:
        tensors[name] = tensors[name] * factor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("family", list(FAMILIES))
def test_float16_of_each_family_agrees_with_float32(
    tmp_path: Path, family: str
) -> None:
    config = save_family(tmp_path, family)
    ids = ids_of(config)
    with ModelManager().resident(config, dtype="float16") as encoder:
        found = encoder.encode(ids)
    cosines = (found * reference(config, ids)).sum(axis=1)
    assert cosines.min() >= FLOAT16_COSINE


def test_a_model_that_overflows_plain_float16_is_right_under_the_policy(
    tmp_path: Path,
) -> None:
    config = save_family(tmp_path, "qwen3")
    enlarge(tmp_path, "mlp.up_proj.weight", 2e4)
    enlarge(tmp_path, "mlp.gate_proj.weight", 20)
    ids = ids_of(config)
    plain = AutoModel.from_pretrained(tmp_path, dtype=torch.float16).eval()
    with torch.inference_mode():
        row = torch.from_numpy(ids[-1].astype(np.int64))[None]
        assert not plain(input_ids=row)[0].isfinite().all()
    with ModelManager().resident(config, dtype="float16") as encoder:
        found = encoder.encode(ids)
    cosines = (found * reference(config, ids)).sum(axis=1)
    assert cosines.min() >= FLOAT16_COSINE


def test_heads_that_share_keys_get_them_repeated_with_and_without_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else SDPA is asked to, and has all scores in memory on a T4."""
    config = save_family(tmp_path, "qwen3")
    expected = {}
    real = torch.nn.functional.scaled_dot_product_attention
    seen: list[tuple[bool, bool]] = []

    def spy(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        assert query.shape[1] == key.shape[1] == value.shape[1]
        assert not options.get("enable_gqa")
        seen.append((options.get("attn_mask") is None, options["is_causal"]))
        return real(query, key, value, **options)

    ids = [np.arange(5, 5 + length, dtype=np.uint32) for length in (31, 32)]
    for row in ids:
        expected[len(row)] = reference(config, [row])
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with ModelManager().resident(config, dtype="float16") as loaded:
        gpu = TorchDenseEncoder(
            loaded._model, config, device="cpu", dtype="float16", as_gpu=True
        )
        for row in ids:
            assert (gpu.encode([row]) * expected[len(row)]).sum() >= FLOAT16_COSINE
    assert {masked for masked, _ in seen} == {True, False}
    assert all(causal == without for without, causal in seen)


def test_values_that_are_not_finite_are_refused_with_the_cure(tmp_path: Path) -> None:
    """Attention's inputs are 16 bits wide: these are not."""
    config = save_family(tmp_path, "bert")
    enlarge(tmp_path, "attention.self.value.weight", 3e4)
    enlarge(tmp_path, "embeddings.LayerNorm.weight", 1e3)
    ids = ids_of(config)
    with (
        ModelManager().resident(config, dtype="float16") as encoder,
        pytest.raises(ModelError, match=r"not finite, computed in float16.*float32"),
    ):
        encoder.encode(ids)
    with ModelManager().resident(config, dtype="float32") as encoder:
        assert np.isfinite(encoder.encode(ids)).all()


def test_a_weight_beyond_float16_is_refused_when_loading(tmp_path: Path) -> None:
    config = save_family(tmp_path, "bert")
    enlarge(tmp_path, "intermediate.dense.weight", 1e7)
    with pytest.raises(ModelError, match="weights beyond float16"):
        ModelManager().resident(config, dtype="float16").__enter__()


def test_under_float16_only_products_and_embeddings_are_16_bits_wide(
    tmp_path: Path,
) -> None:
    config = save_family(tmp_path, "qwen2")
    with ModelManager().resident(config, dtype="float16") as encoder:
        for module in encoder._model.modules():  # type: ignore[attr-defined]
            own = dict(module.named_parameters(recurse=False))
            narrow = {name for name, value in own.items() if value.dtype != torch.float}
            half = isinstance(module, ScaledLinear | WideEmbedding)
            assert narrow == ({"weight"} if half else set())


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 0), "float16"),
        ((6, 1), "float32"),
        ((7, 5), "float16"),
        ((8, 0), "bfloat16"),
        ((9, 0), "bfloat16"),
        ((12, 0), "bfloat16"),
    ],
)
def test_a_card_computes_in_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert cuda_dtype("cuda:0") == dtype
    assert ModelManager().dtype("cuda:0") == dtype
