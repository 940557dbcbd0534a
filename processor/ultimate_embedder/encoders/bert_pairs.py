"""BERT-like sequence classifiers computed for one pair at a time, on a CPU.

A pair is a forward pass of its own: nothing but the pair decides its score, and a core
is busy enough with one. Lengths are rounded up to a multiple, so that few shapes occur.
What does not reach the logit is left out: after the last layer's keys and values only
the first token is followed, and that in float32, so that scores keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..records import Int64Array
from .bert_layer import LAYER_MODULES, Attention, BertLayer, Norm
from .bert_states import places_after_padding

_LENGTH_MULTIPLE = 8
_PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."}
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_KINDS = ("weight", "bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """What the weights do not tell. `first_position` is 0, or beyond the padding id."""

    prefix: str  # of the parameters below the head
    layers: int
    heads: int
    epsilon: float
    first_position: int

    @classmethod
    def of(cls, config: Any) -> BertShape | None:
        """Return the shape a model's configuration states, None if not BERT-like."""
        prefix = _PREFIXES.get(config.model_type)
        position = getattr(config, "position_embedding_type", None) or "absolute"
        if prefix is None or config.hidden_act != "gelu" or position != "absolute":
            return None
        return cls(
            prefix=prefix,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            epsilon=config.layer_norm_eps,
            first_position=0 if prefix == "bert." else config.pad_token_id + 1,
        )

    def parameters(self) -> set[str]:
        """Return the names of all parameters of a classifier of this shape."""
        below = ["embeddings.LayerNorm"]
        for layer in range(self.layers):
            below += [f"encoder.layer.{layer}.{name}" for name in LAYER_MODULES]
        modules = [*(self.prefix + name for name in below), *self.head]
        return {
            *(f"{self.prefix}embeddings.{name}.weight" for name in _EMBEDDINGS),
            *(f"{name}.{kind}" for name in modules for kind in _KINDS),
        }

    def layer(
        self, state: Mapping[str, Tensor], number: int, dtype: torch.dtype
    ) -> BertLayer:
        """Return a block of a classifier's state that computes in `dtype`."""
        prefix = f"{self.prefix}encoder.layer.{number}."
        taken = {
            name: _copied(one, torch.float32)
            for name, one in state.items()
            if name.startswith(prefix)
        }
        return BertLayer.of(
            taken, prefix, heads=self.heads, epsilon=self.epsilon, dtype=dtype
        )

    @property
    def head(self) -> tuple[str, str]:
        """The two linear modules on top of the first token, with tanh between them."""
        if self.prefix == "bert.":
            return "bert.pooler.dense", "classifier"
        return "classifier.dense", "classifier.out_proj"


class BertPairs:
    """Logits of pairs, each computed alone. Threads may share one."""

    def __init__(
        self, state: Mapping[str, Tensor], shape: BertShape, dtype: torch.dtype
    ) -> None:
        """Take the parameters that `shape` names, as copies in `dtype`."""
        embeddings = f"{shape.prefix}embeddings"
        self._words, self._positions, self._types = (
            state[f"{embeddings}.{name}.weight"].to(dtype) for name in _EMBEDDINGS
        )
        weight, bias = _pair(state, f"{embeddings}.LayerNorm", dtype)
        self._norm = Norm(weight, bias, shape.epsilon)
        self._layers = [
            shape.layer(state, number, dtype) for number in range(shape.layers)
        ]
        self._last = shape.layer(state, shape.layers - 1, torch.float32)
        self._hidden, self._out = (
            _pair(state, name, torch.float32) for name in shape.head
        )
        self._first = shape.first_position
        self._longest = len(self._positions) - self._first
        self._pad_id = max(0, shape.first_position - 1)

    def padded_length(self, tokens: int) -> int:
        """Return the positions computed for a pair of `tokens`."""
        padded = math.ceil(tokens / _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        return max(tokens, min(padded, self._longest))

    def logit(self, ids: Int64Array, types: Int64Array) -> float:
        """Return the score of one pair; ids and types are [tokens]."""
        tokens = len(ids)
        padding = self.padded_length(tokens) - tokens
        ids = np.pad(ids, (0, padding), constant_values=self._pad_id)
        types = np.pad(types, (0, padding))
        with torch.inference_mode():
            attention = Attention()
            states = self._embedded(ids, types)
            for layer in self._layers[:-1]:
                states = layer(states, tokens, attention)
            query, key, value = self._layers[-1].projected(states)
            gathered = attention.gather(query[:, :1], key, value, tokens).float()
            first = self._last.finished(states[:1].float(), gathered)
            hidden = torch.tanh(functional.linear(first, *self._hidden))
            return float(functional.linear(hidden, *self._out))

    def _embedded(self, ids: Int64Array, types: Int64Array) -> Tensor:
        words, kinds = self._words[torch.from_numpy(ids)], torch.from_numpy(types)
        if self._first == 0:
            places = self._positions[: len(ids)]
        else:
            places = self._positions[places_after_padding(ids, self._pad_id)]
        return self._norm(words + self._types[kinds] + places)


def _pair(
    state: Mapping[str, Tensor], name: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    weight, bias = (_copied(state[f"{name}.{kind}"], dtype) for kind in _KINDS)
    return weight, bias


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Memory of torch's own: how a foreign block is aligned can show in a last bit.
    return tensor.to(dtype).clone()
