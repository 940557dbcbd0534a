"""Vectors agree with sentence-transformers and depend on their text alone."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.dense_torch import TorchDenseEncoder
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.errors import ModelError, ModelMismatch
from processor.ultimate_embedder.models.manager import ModelManager


def test_vectors_agree_with_sentence_transformers(
    encoder: AttentionEncoder,
    tokenizer: HubTokenizer,
    manager: ModelManager,
    minilm: ModelConfig,
    fitting: list[str],
) -> None:
    peer = SentenceTransformer(str(manager.locate(minilm).path), device="cpu")
    expected = peer.encode(fitting, normalize_embeddings=True)
    found = encoder.encode(tokenizer.encode(fitting, "document").ids)
    cosines = (found * expected).sum(axis=1)
    assert cosines.min() >= 0.9995


def test_vectors_are_of_unit_length(
    encoder: AttentionEncoder, tokenizer: HubTokenizer, fitting: list[str]
) -> None:
    found = encoder.encode(tokenizer.encode(fitting[:9], "document").ids)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32), group=st.integers(1, 17))
def test_bytes_do_not_depend_on_neighbours_order_or_grouping(
    encoder: AttentionEncoder,
    tokenizer: HubTokenizer,
    fitting: list[str],
    seed: int,
    group: int,
) -> None:
    shuffled = fitting[:48]
    random.Random(seed).shuffle(shuffled)
    some = shuffled[:24]
    ids = tokenizer.encode(some, "document").ids
    together = encoder.encode(ids)
    regrouped = np.concatenate(
        [encoder.encode(ids[i : i + group]) for i in range(0, len(ids), group)]
    )
    alone = np.concatenate([encoder.encode([row]) for row in ids[:4]])
    assert together.tobytes() == regrouped.tobytes()
    assert together[:4].tobytes() == alone.tobytes()


def test_asking_for_attention_changes_no_byte(
    encoder: AttentionEncoder, tokenizer: HubTokenizer, fitting: list[str]
) -> None:
    ids = tokenizer.encode(fitting[:30], "document").ids
    vectors, attention = encoder.encode_with_attention(ids)
    assert vectors.tobytes() == encoder.encode(ids).tobytes()
    assert [len(row) for row in attention] == [len(row) for row in ids]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)]
)
def test_attention_is_that_of_an_eager_model(
    manager: ModelManager,
    minilm: ModelConfig,
    tokenizer: HubTokenizer,
    fitting: list[str],
    dtype: str,
    tolerance: float,
) -> None:
    eager = AutoModel.from_pretrained(
        manager.locate(minilm).path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids = tokenizer.encode(fitting[:20], "document").ids
    with manager.resident(minilm, dtype=dtype) as loaded:
        _, found = loaded.encode_with_attention(ids)
    for row, attention in zip(ids, found, strict=True):
        with torch.inference_mode():
            inputs = torch.from_numpy(row.astype(np.int64))[None]
            last = eager(input_ids=inputs, output_attentions=True).attentions[-1]
        expected = last[0].mean(dim=0)[0].numpy()
        np.testing.assert_allclose(attention, expected, atol=tolerance)
        assert attention.sum() == pytest.approx(1.0, abs=1e-3)


def test_in_the_passes_of_a_gpu_attention_costs_one_projection_a_batch(
    encoder: AttentionEncoder,
    manager: ModelManager,
    minilm: ModelConfig,
    tokenizer: HubTokenizer,
    fitting: list[str],
) -> None:
    ids = tokenizer.encode(fitting[:20], "document").ids
    expected_vectors, expected = encoder.encode_with_attention(ids)
    model = AutoModel.from_pretrained(manager.locate(minilm).path, dtype=torch.float32)
    gpu = TorchDenseEncoder(
        model.eval(), minilm, device="cpu", dtype="float32", as_gpu=True
    )
    calls: list[torch.Size] = []
    key = model.encoder.layer[-1].attention.self.key
    key.register_forward_hook(lambda *of: calls.append(of[-1].shape))
    vectors, attention = gpu.encode_with_attention(ids)
    assert [shape[0] for shape in calls] == [len(ids)] * 2  # of the pass, and ours
    assert vectors.tobytes() == gpu.encode(ids).tobytes()
    assert (vectors * expected_vectors).sum(axis=1).min() >= 0.9995
    for row, mine, other in zip(ids, attention, expected, strict=True):
        assert len(mine) == len(row)
        np.testing.assert_allclose(mine, other, atol=2e-2)


def test_another_width_than_the_registrys_is_refused(
    manager: ModelManager, minilm: ModelConfig
) -> None:
    wrong = ModelConfig(
        name="wrong",
        hf_model_id=str(manager.locate(minilm).path),
        vector_dim=385,
        max_tokens=256,
    )
    with pytest.raises(ModelMismatch, match=r"384-d vectors; the registry says 385"):
        manager.resident(wrong).__enter__()


def test_another_pooling_than_the_models_own_is_refused(
    manager: ModelManager, minilm: ModelConfig
) -> None:
    wrong = ModelConfig(
        name="wrong",
        hf_model_id=str(manager.locate(minilm).path),
        vector_dim=384,
        max_tokens=256,
        pooling="cls",
    )
    with pytest.raises(ModelMismatch, match="trained with mean pooling"):
        manager.resident(wrong).__enter__()


@pytest.fixture
def copied(manager: ModelManager, minilm: ModelConfig, tmp_path: Path) -> ModelConfig:
    """The embedded model in a folder of its own, to be damaged."""
    folder = tmp_path / "model"
    shutil.copytree(manager.locate(minilm).path, folder)
    return replace(minilm, hf_model_id=str(folder))


@pytest.mark.parametrize("kept", [0, 100, 1_000_000])
def test_weights_cut_short_are_one_clear_line(
    manager: ModelManager, copied: ModelConfig, kept: int
) -> None:
    weights = Path(copied.hf_model_id) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelError, match="all-miniLM-l6 cannot be loaded") as caught:
        manager.resident(copied).__enter__()
    assert "\n" not in str(caught.value)


def test_a_model_that_lacks_weights_is_refused_not_filled_at_random(
    manager: ModelManager, copied: ModelConfig
) -> None:
    weights = Path(copied.hf_model_id) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.layer.3.output.dense.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelMismatch, match=r"lacks 1 weights .*layer\.3\.output"):
        manager.resident(copied).__enter__()
