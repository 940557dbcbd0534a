"""BERT-like sequence classifiers computed for one pair at a time, on a CPU.

A pair is a forward pass of its own: nothing but the pair decides its score, and a core
is busy enough with one. Lengths are rounded up to a multiple, so that few shapes occur.
What does not reach the logit is left out: after the last layer's keys and values only
the first token is followed, and that in float32, so that scores keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..records import Int64Array

_LENGTH_MULTIPLE = 8
_PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."}
_QKV = ("query", "key", "value")
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_LAYER = (
    *(f"attention.self.{name}" for name in _QKV),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


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
            below += [f"encoder.layer.{layer}.{name}" for name in _LAYER]
        modules = [*(self.prefix + name for name in below), *self.head]
        return {
            *(f"{self.prefix}embeddings.{name}.weight" for name in _EMBEDDINGS),
            *(f"{name}.{kind}" for name in modules for kind in ("weight", "bias")),
        }

    @property
    def head(self) -> tuple[str, str]:
        """The two linear modules on top of the first token, with tanh between them."""
        if self.prefix == "bert.":
            return "bert.pooler.dense", "classifier"
        return "classifier.dense", "classifier.out_proj"


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Tensor
    bias: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.weight, self.bias)

    def to(self, dtype: torch.dtype) -> _Linear:
        return _Linear(self.weight.to(dtype), self.bias.to(dtype))


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, states: Tensor) -> Tensor:
        return functional.layer_norm(
            states, self.weight.shape, self.weight, self.bias, self.epsilon
        )

    def to(self, dtype: torch.dtype) -> _Norm:
        return _Norm(self.weight.to(dtype), self.bias.to(dtype), self.epsilon)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One transformer block; the three projections of attention are one matrix."""

    qkv: _Linear
    mixed: _Linear
    mixed_norm: _Norm
    wide: _Linear
    narrow: _Linear
    narrow_norm: _Norm
    heads: int

    def attended(self, states: Tensor, mask: Tensor | None, rows: int) -> Tensor:
        """Return what the first `rows` tokens gather from all: [rows, width]."""
        length, width = states.shape
        heads = self.qkv(states).view(length, 3, self.heads, -1).permute(1, 2, 0, 3)
        query, key, value = heads.unsqueeze(1).unbind(0)
        found = functional.scaled_dot_product_attention(
            query[:, :, :rows], key, value, attn_mask=mask
        )
        return found[0].transpose(0, 1).reshape(rows, width)

    def finished(self, states: Tensor, attended: Tensor) -> Tensor:
        """Return the block's output for the tokens given: [rows, width]."""
        mixed = self.mixed_norm(self.mixed(attended) + states)
        return self.narrow_norm(self.narrow(functional.gelu(self.wide(mixed))) + mixed)


class BertPairs:
    """Logits of pairs, each computed alone. Threads may share one."""

    def __init__(
        self, state: Mapping[str, Tensor], shape: BertShape, dtype: torch.dtype
    ) -> None:
        """Take the parameters that `shape` names; those not in `dtype` are copied."""
        take = _Taking(state, shape)
        embeddings = f"{shape.prefix}embeddings"
        self._words, self._positions, self._types = (
            state[f"{embeddings}.{name}.weight"].to(dtype) for name in _EMBEDDINGS
        )
        self._norm = take.norm(f"{embeddings}.LayerNorm").to(dtype)
        layers = [take.layer(number) for number in range(shape.layers)]
        self._layers = [_in(dtype, layer) for layer in layers[:-1]]
        self._last = replace(layers[-1], qkv=layers[-1].qkv.to(dtype))
        self._hidden, self._out = (take.linear(name) for name in shape.head)
        self._first = shape.first_position
        self._longest = len(self._positions) - self._first
        self._pad_id = max(0, shape.first_position - 1)

    def padded_length(self, tokens: int) -> int:
        """Return the positions computed for a pair of `tokens`."""
        padded = math.ceil(tokens / _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        return max(tokens, min(padded, self._longest))

    def logit(self, ids: Int64Array, types: Int64Array) -> float:
        """Return the score of one pair; ids and types are [tokens]."""
        padding = self.padded_length(len(ids)) - len(ids)
        mask = None
        if padding:
            ids = np.pad(ids, (0, padding), constant_values=self._pad_id)
            types = np.pad(types, (0, padding))
            mask = torch.ones(1, 1, 1, len(ids), dtype=torch.bool)
            mask[..., -padding:] = False
        with torch.inference_mode():
            states = self._embedded(torch.from_numpy(ids), torch.from_numpy(types))
            for layer in self._layers:
                gathered = layer.attended(states, mask, len(ids))
                states = layer.finished(states, gathered)
            gathered = self._last.attended(states, mask, 1).float()
            first = self._last.finished(states[:1].float(), gathered)
            return float(self._out(torch.tanh(self._hidden(first))))

    def _embedded(self, ids: Tensor, types: Tensor) -> Tensor:
        positions = self._positions[self._first : self._first + len(ids)]
        return self._norm(self._words[ids] + self._types[types] + positions)


@dataclass(frozen=True, slots=True)
class _Taking:
    """Modules taken from a state by their names, in float32."""

    state: Mapping[str, Tensor]
    shape: BertShape

    def linear(self, name: str) -> _Linear:
        return _Linear(*self._pair(name))

    def norm(self, name: str) -> _Norm:
        return _Norm(*self._pair(name), self.shape.epsilon)

    def layer(self, number: int) -> _Layer:
        name = f"{self.shape.prefix}encoder.layer.{number}."
        parts = [self._pair(f"{name}attention.self.{part}") for part in _QKV]
        weights, biases = zip(*parts, strict=True)
        return _Layer(
            qkv=_Linear(torch.cat(weights), torch.cat(biases)),
            mixed=self.linear(name + "attention.output.dense"),
            mixed_norm=self.norm(name + "attention.output.LayerNorm"),
            wide=self.linear(name + "intermediate.dense"),
            narrow=self.linear(name + "output.dense"),
            narrow_norm=self.norm(name + "output.LayerNorm"),
            heads=self.shape.heads,
        )

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        weight, bias = (self.state[f"{name}.{kind}"] for kind in ("weight", "bias"))
        # Memory of torch's own: how a foreign block is aligned can show in a last bit.
        return weight.float().clone(), bias.float().clone()


def _in(dtype: torch.dtype, layer: _Layer) -> _Layer:
    return _Layer(
        qkv=layer.qkv.to(dtype),
        mixed=layer.mixed.to(dtype),
        mixed_norm=layer.mixed_norm.to(dtype),
        wide=layer.wide.to(dtype),
        narrow=layer.narrow.to(dtype),
        narrow_norm=layer.narrow_norm.to(dtype),
        heads=layer.heads,
    )
