"""A NomicBERT model published with code gives that code's vectors without it.

The reference is the architecture in plain torch, one text at a time, from the published
names of weights: rotary positions over whole heads, a gated layer, norms after sums.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from family_parts import WIDTH, WINDOW, save_tokenizer, some_texts
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import UInt32Array

LAYERS, HEADS, INNER, WORDS, BASE = 2, 4, 48, 100, 1000

SETTINGS = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"},
    "n_embd": WIDTH,
    "hidden_size": WIDTH,
    "n_layer": LAYERS,
    "num_hidden_layers": LAYERS,
    "n_head": HEADS,
    "num_attention_heads": HEADS,
    "n_inner": INNER,
    "intermediate_size": INNER,
    "max_position_embeddings": WINDOW,
    "vocab_size": WORDS,
    "activation_function": "swiglu",
    "rotary_emb_base": BASE,
    "rotary_emb_fraction": 1.0,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
}


def published_weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.3

    weights = {
        "embeddings.word_embeddings.weight": random(WORDS, WIDTH),
        "embeddings.token_type_embeddings.weight": random(2, WIDTH),
    }
    norms = ["emb_ln"]
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}."
        norms += [f"{at}norm1", f"{at}norm2"]
        weights |= {
            f"{at}attn.Wqkv.weight": random(3 * WIDTH, WIDTH),
            f"{at}attn.out_proj.weight": random(WIDTH, WIDTH),
            f"{at}mlp.fc11.weight": random(INNER, WIDTH),
            f"{at}mlp.fc12.weight": random(INNER, WIDTH),
            f"{at}mlp.fc2.weight": random(WIDTH, INNER),
        }
    for name in norms:
        weights |= {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}
    return weights


def turned(states: Tensor) -> Tensor:
    """Turn pairs of [heads, length, size] by their position: halves, not neighbours."""
    _, length, size = states.shape
    rates = BASE ** -(torch.arange(0, size, 2) / size)
    angles = torch.outer(torch.arange(length).float(), rates)
    first, second = states.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def reference(weights: dict[str, Tensor], ids: UInt32Array) -> np.ndarray:
    """Return the vector of one text, the first token's state of unit length."""

    def norm(name: str, states: Tensor) -> Tensor:
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(states, (WIDTH,), scale, shift, 1e-12)

    words = weights["embeddings.word_embeddings.weight"][ids.astype(np.int64)]
    states = norm(
        "emb_ln", words + weights["embeddings.token_type_embeddings.weight"][0]
    )
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}."
        mixed = states @ weights[f"{at}attn.Wqkv.weight"].T
        query, key, value = (
            part.view(len(ids), HEADS, -1).transpose(0, 1)
            for part in mixed.chunk(3, -1)
        )
        scores = turned(query) @ turned(key).transpose(1, 2)
        shares = (scores / (WIDTH // HEADS) ** 0.5).softmax(-1)
        gathered = (shares @ value).transpose(0, 1).reshape(len(ids), WIDTH)
        states = norm(
            f"{at}norm1", gathered @ weights[f"{at}attn.out_proj.weight"].T + states
        )
        gate = functional.silu(states @ weights[f"{at}mlp.fc12.weight"].T)
        inner = states @ weights[f"{at}mlp.fc11.weight"].T * gate
        states = norm(f"{at}norm2", inner @ weights[f"{at}mlp.fc2.weight"].T + states)
    vector: np.ndarray = functional.normalize(states[0], dim=-1).numpy()
    return vector


def test_the_vectors_are_those_of_the_published_architecture(tmp_path: Path) -> None:
    weights = published_weights()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "own.py").write_text("raise AssertionError('it ran')\n")
    save_tokenizer(tmp_path)
    config = ModelConfig("nomic", str(tmp_path), WIDTH, WINDOW, pooling="cls")
    manager = ModelManager(offline=True)
    ids = list(manager.tokenizer(config).encode(some_texts(12), "document").ids)
    with manager.resident(config, dtype="float32") as encoder:
        found = encoder.encode(ids)
    expected = np.stack([reference(weights, row) for row in ids])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected @ expected.T).min() < 0.99, "the texts are all alike"
