"""A BERT-like encoder's parameters from its files, without the library that made them.

Importing transformers takes longer than most searches do. Only what is plain is read
here: one safetensors file whose names are exactly those of the family. All else is left
to transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .bert_states import is_bert_like

_WEIGHTS = "model.safetensors"
_PREFIXES = ("bert.", "roberta.")
_PASSED_OVER = ("pooler.", "embeddings.position_ids")
_NEEDED = (
    "model_type",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "vocab_size",
)
_NOT_PLAIN = ("auto_map", "quantization_config", "is_decoder", "is_encoder_decoder")


class PlainBert(nn.Module):
    """Parameters by the names that transformers gives them, and `config`: no passes."""

    def __init__(
        self, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> None:
        """Take the content of config.json and the parameters."""
        super().__init__()
        self.config = SimpleNamespace(**settings)
        for name, tensor in state.items():
            *folders, last = name.split(".")
            _inner(self, folders).register_parameter(
                last, nn.Parameter(tensor, requires_grad=False)
            )
        layers = self.get_submodule("encoder.layer")
        self.get_submodule("encoder").layer = nn.ModuleList(layers.children())
        embeddings: Any = self.get_submodule("embeddings.LayerNorm")
        embeddings.eps = settings["layer_norm_eps"]


def read_bert(path: Path, dtype: str) -> PlainBert | None:
    """Return the encoder in a folder, in `dtype`; None where it is not a plain one."""
    settings = _settings(path)
    file = path / _WEIGHTS
    if settings is None or not file.is_file():
        return None
    try:
        found = load_file(file)
    except (OSError, SafetensorError):
        return None  # transformers says what is wrong
    state = {
        name: tensor.to(getattr(torch, dtype)).clone()  # in memory of torch's own
        for name, tensor in _unprefixed(found).items()
        if not name.startswith(_PASSED_OVER)
    }
    if not _as_stated(state, settings):
        return None  # transformers says what differs
    model = PlainBert(settings, state)
    return model.eval() if is_bert_like(model) else None


def _settings(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    plain = isinstance(found, dict) and all(name in found for name in _NEEDED)
    return found if plain and not any(map(found.get, _NOT_PLAIN)) else None


def _as_stated(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
    """Say whether the parameters have the shapes that config.json states."""
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    places = settings["max_position_embeddings"]
    expected = {
        "embeddings.word_embeddings.weight": (settings["vocab_size"], width),
        "embeddings.position_embeddings.weight": (places, width),
    }
    for number in range(settings["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        expected[f"{layer}.attention.self.query.weight"] = (width, width)
        expected[f"{layer}.intermediate.dense.weight"] = (inner, width)
        expected[f"{layer}.output.dense.weight"] = (width, inner)
    return all(
        name in state and tuple(state[name].shape) == shape
        for name, shape in expected.items()
    )


def _unprefixed(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): one for name, one in state.items()}
    return state


def _inner(module: nn.Module, names: list[str]) -> nn.Module:
    for name in names:
        inner = module._modules.get(name)
        if inner is None:
            inner = nn.Module()
            module.add_module(name, inner)
        module = inner
    return module
