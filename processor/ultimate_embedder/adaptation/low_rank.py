"""A BERT pair classifier of which little moves: low-rank factors, pooler, classifier.

A linear map of an upper layer with the frozen matrix W computes W x + B (A x): A starts
at random with deviation 1 / sqrt(inputs), B at zero (Hu et al., LoRA, 2021), so that an
untrained model is its base, and with a classifier of zeros every logit is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..encoders.bert_pairs import BertShape
from ..encoders.weight_difference import State
from ..errors import ModelError
from ..records import Float32Array
from .pairs import PairBatch

Tensors = Mapping[str, npt.NDArray[Any]]
"""The content of a difference file."""

Snapshot = list[Tensor]

_DOWN, _UP = ".lora_A", ".lora_B"
_QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
_LINEAR = (*_QKV, "attention.output.dense", "intermediate.dense", "output.dense")


@dataclass(frozen=True, slots=True)
class Start:
    """Where training begins: all parameters of the base, and of the model so far.

    `tensors` are those of the difference between the two, none at the very start.
    """

    base: State
    state: State
    tensors: Tensors

    @classmethod
    def at_base(cls, base: State) -> Start:
        """Return the start with no difference."""
        return cls(base, base, {})

    def factors(self, name: str) -> tuple[Float32Array, Float32Array] | None:
        """Return a parameter's factors [rank, in] and [out, rank], None: none."""
        if name + _DOWN not in self.tensors:
            return None
        down, up = self.tensors[name + _DOWN], self.tensors[name + _UP]
        return down.astype(np.float32), up.astype(np.float32)


class LowRankBert:
    """Logits of pairs, with gradients for what is trained alone.

    What is frozen computes in `dtype`; factors and head are held in float32.
    """

    def __init__(
        self,
        start: Start,
        shape: BertShape,
        *,
        rank: int,
        first_layer: int,
        seed: int,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        """Set up the model at its start; what a difference holds keeps its rank.

        Raises:
            ModelError: no layer is left to train.
        """
        if not 0 <= first_layer < shape.layers:
            raise ModelError(
                f"There is no layer {first_layer}: the base has {shape.layers}."
            )
        self.device = torch.device(device)
        self._shape, self._start = shape, start
        upper = range(first_layer, shape.layers)
        names = [self._name(layer, part) for layer in upper for part in _LINEAR]
        rng = np.random.Generator(np.random.PCG64(seed))
        self._factors = {name: self._begun(name, rank, rng) for name in _weights(names)}
        head = [f"{name}.{kind}" for name in shape.head for kind in ("weight", "bias")]
        self._whole = {name: self._moving(start.state[name]) for name in head}
        self._frozen = {
            name: torch.tensor(self._held(name), device=self.device).to(
                getattr(torch, dtype)
            )
            for name in start.state
            if name not in self._whole
        }

    @property
    def trained(self) -> dict[str, Tensor]:
        """What training moves, by the names of a difference file."""
        factors = {
            name + end: tensor
            for name, pair in self._factors.items()
            for end, tensor in zip((_DOWN, _UP), pair, strict=True)
        }
        return factors | self._whole

    def parameters(self) -> list[Tensor]:
        """Return what training moves, in a fixed order."""
        return [tensor for _, tensor in sorted(self.trained.items())]

    def snapshot(self) -> Snapshot:
        """Return a copy of what training moves."""
        return [tensor.detach().clone() for tensor in self.parameters()]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Go back to a snapshot."""
        with torch.no_grad():
            for tensor, kept in zip(self.parameters(), snapshot, strict=True):
                tensor.copy_(kept)

    def logits(self, batches: Iterable[PairBatch]) -> Tensor:
        """Return float32 [pairs] in the order in which the pairs stood."""
        found = [(batch.places, self._logits(batch)) for batch in batches]
        places = np.concatenate([places for places, _ in found])
        order = torch.from_numpy(np.argsort(places)).to(self.device)
        return torch.cat([logits for _, logits in found])[order]

    def difference(self) -> dict[str, npt.NDArray[Any]]:
        """Return the tensors of a difference file: matrices in float16.

        What a start brought along and training does not touch stays as it was.
        """
        found: dict[str, npt.NDArray[Any]] = {
            name: tensor
            for name, tensor in self._start.tensors.items()
            if _parameter(name) not in {*self._factors, *self._whole}
        }
        for name, (down, up) in self._factors.items():
            low, high = (part.detach().cpu().numpy() for part in (down, up))
            if name in self._start.tensors:  # held as a whole: so it stays
                found[name] = (self._held(name) + high @ low).astype(np.float16)
            elif high.any():
                found[name + _DOWN] = low.astype(np.float16)
                found[name + _UP] = high.astype(np.float16)
        for name, tensor in self._whole.items():
            value = tensor.detach().cpu().numpy()
            if not np.array_equal(value, self._start.base[name]):
                dtype = np.float16 if value.ndim == 2 else np.float32
                found[name] = np.array(value, dtype=dtype)
        return dict(sorted(found.items()))

    def _begun(
        self, name: str, rank: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        outputs, inputs = self._start.base[name].shape
        known = self._start.factors(name)
        held = 0 if known is None else len(known[0])
        down = rng.normal(size=(max(rank, held), inputs)) / math.sqrt(inputs)
        up = np.zeros((outputs, max(rank, held)))
        if known is not None:
            down[:held], up[:, :held] = known
        return self._moving(down), self._moving(up)

    def _held(self, name: str) -> Float32Array:
        """Return the frozen value: what factors are added to, or the parameter."""
        factors = name in self._factors and self._start.factors(name) is not None
        return (self._start.base if factors else self._start.state)[name]

    def _moving(self, value: npt.NDArray[Any]) -> Tensor:
        tensor = torch.tensor(value, dtype=torch.float32, device=self.device)
        return tensor.requires_grad_()

    def _name(self, layer: int, part: str) -> str:
        return f"{self._shape.prefix}encoder.layer.{layer}.{part}"

    def _linear(self, name: str, states: Tensor) -> Tensor:
        weight, bias = (self._frozen[f"{name}.{kind}"] for kind in ("weight", "bias"))
        found = functional.linear(states, weight, bias)
        if (pair := self._factors.get(f"{name}.weight")) is None:
            return found
        down, up = (factor.to(states.dtype) for factor in pair)
        return found + functional.linear(functional.linear(states, down), up)

    def _norm(self, name: str, states: Tensor) -> Tensor:
        weight, bias = (self._frozen[f"{name}.{kind}"] for kind in ("weight", "bias"))
        return functional.layer_norm(
            states, weight.shape, weight, bias, self._shape.epsilon
        )

    def _logits(self, batch: PairBatch) -> Tensor:
        ids, types = (
            torch.from_numpy(array).to(self.device)
            for array in (batch.ids, batch.types)
        )
        mask = None
        if not batch.mask.all():
            mask = torch.from_numpy(batch.mask).to(self.device)[:, None, None, :]
        states = self._embedded(ids, types)
        for layer in range(self._shape.layers):
            # After the last layer's keys and values only the first token counts.
            rows = 1 if layer == self._shape.layers - 1 else ids.shape[1]
            states = self._layer(layer, states, mask, rows)
        return self._head(states[:, 0].float())

    def _head(self, first: Tensor) -> Tensor:
        hidden, out = (
            (self._whole[f"{name}.weight"], self._whole[f"{name}.bias"])
            for name in self._shape.head
        )
        pooled = torch.tanh(functional.linear(first, *hidden))
        return functional.linear(pooled, *out)[:, 0]

    def _embedded(self, ids: Tensor, types: Tensor) -> Tensor:
        name = f"{self._shape.prefix}embeddings."
        first = self._shape.first_position
        words, positions, kinds = (
            self._frozen[f"{name}{table}_embeddings.weight"]
            for table in ("word", "position", "token_type")
        )
        summed = words[ids] + kinds[types] + positions[first : first + ids.shape[1]]
        return self._norm(f"{name}LayerNorm", summed)

    def _layer(
        self, layer: int, states: Tensor, mask: Tensor | None, rows: int
    ) -> Tensor:
        """Return the first `rows` tokens after a layer: [pairs, rows, width]."""
        parts = [self._name(layer, part) for part in _LINEAR]
        query = self._split(self._linear(parts[0], states[:, :rows]))
        key, value = (self._split(self._linear(name, states)) for name in parts[1:3])
        found = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask
        )
        gathered = found.transpose(1, 2).flatten(2)
        mixed = self._norm(
            self._name(layer, "attention.output.LayerNorm"),
            self._linear(parts[3], gathered) + states[:, :rows],
        )
        wide = functional.gelu(self._linear(parts[4], mixed))
        return self._norm(
            self._name(layer, "output.LayerNorm"), self._linear(parts[5], wide) + mixed
        )

    def _split(self, states: Tensor) -> Tensor:
        """Return [pairs, heads, tokens, width of a head]."""
        pairs, tokens, _ = states.shape
        return states.view(pairs, tokens, self._shape.heads, -1).transpose(1, 2)


def _weights(modules: Iterable[str]) -> list[str]:
    return [f"{module}.weight" for module in modules]


def _parameter(tensor: str) -> str:
    return tensor.removesuffix(_DOWN).removesuffix(_UP)
