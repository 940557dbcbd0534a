"""One block of a BERT-like encoder over one sequence, on a CPU.

What is not arithmetic is left out: the three projections of attention are one product,
padding is cut off the keys in place of a mask, weights lie as the kernels want them,
sums go into memory that is there.

Tokens are weighed by powers of two (the factor is in the weights of the queries), and
scores are not shifted by their largest: a softmax does not change by either. Where the
sums leave the range in which that is exact enough, torch's own kernel does the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

QKV = ("query", "key", "value")
LAYER_MODULES = (
    *(f"attention.self.{name}" for name in QKV),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
"""The modules of a block by the names that transformers gives them."""

_LN2 = math.log(2)
_DIRECT_POSITIONS = 512  # beyond, all scores at once would leave the caches
_RANGE = (2.0**-100, 2.0**112)  # room for normal numbers and for values times sums
_ROWS_EXPECTED = 128  # a hint: the layout was the same for 1 to 256

Product = Callable[[Tensor], Tensor]


class Attention:
    """How the tokens of one pass gather from one another.

    One for each pass: it holds the memory of the scores, which layers share.
    """

    def __init__(self) -> None:
        """Hold no memory yet."""
        self._scores: Tensor | None = None

    def gather(self, query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
        """Return [rows, heads, size]: values weighed by how queries meet keys.

        `query` is [heads, rows, size], `key` and `value` are [heads, positions, size];
        positions from `tokens` on are padding.
        """
        if key.shape[1] > _DIRECT_POSITIONS:
            return _by_kernel(query, key, value, tokens)
        weights = self._weights(query, key, tokens)
        sums = weights.sum(dim=-1, keepdim=True)
        low, high = sums.aminmax()
        if not (low >= _RANGE[0] and high <= _RANGE[1]):  # so too where one is nan
            return _by_kernel(query, key, value, tokens)
        found = torch.bmm(weights, value)
        # Divided into the order that the next product reads.
        rows = found.new_empty(found.shape[1], found.shape[0], found.shape[2])
        return torch.div(found.transpose(0, 1), sums.transpose(0, 1), out=rows)

    def _weights(self, query: Tensor, key: Tensor, tokens: int) -> Tensor:
        shape = (*query.shape[:2], key.shape[1])
        room = math.prod(shape)
        if self._scores is None or self._scores.numel() < room:
            self._scores = query.new_empty(room)
        scores = self._scores[:room].view(shape)
        torch.bmm(query, key.transpose(1, 2), out=scores).exp2_()
        scores[:, :, tokens:] = 0
        return scores


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
    found = functional.scaled_dot_product_attention(
        query[None], key[None, :, :tokens], value[None, :, :tokens], scale=_LN2
    )
    return found[0].transpose(0, 1)


def product(weight: Tensor, bias: Tensor) -> Product:
    """Return what multiplies [rows, in] with `weight` [out, in] and adds `bias`.

    In bfloat16 the weights are put as oneDNN's kernels read them, once; else they would
    be with every call. The results are those of `functional.linear`.
    """
    packed = weight.dtype == torch.bfloat16 and _packs_bfloat16()
    if not packed:
        return lambda states: functional.linear(states, weight, bias)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_EXPECTED)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda states: multiply(states, laid_out, bias, "none", [], "")


def _packs_bfloat16() -> bool:
    return bool(
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation over the last dimension."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, states: Tensor) -> Tensor:
        """Return `states` normalised, in their own precision."""
        return functional.layer_norm(
            states, self.weight.shape, self.weight, self.bias, self.epsilon
        )


@dataclass(frozen=True, slots=True)
class BertLayer:
    """A block: attention, then the two wide products, each added and normalised."""

    qkv: Product
    mixed: Product
    mixed_norm: Norm
    wide: Product
    narrow: Product
    narrow_norm: Norm
    heads: int

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        prefix: str,
        *,
        heads: int,
        epsilon: float,
        dtype: torch.dtype | None = None,
    ) -> BertLayer:
        """Take the parameters that begin with `prefix`, in the precision they have.

        With `dtype` they are rounded to it, after the queries' were scaled.
        """

        def given(name: str) -> tuple[Tensor, Tensor]:
            return state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"]

        def pair(name: str) -> tuple[Tensor, Tensor]:
            return _rounded(given(name), dtype)

        def norm(name: str) -> Norm:
            return Norm(*pair(name), epsilon)

        parts = [given(f"attention.self.{name}") for name in QKV]
        size = parts[0][0].shape[0] // heads
        return cls(
            qkv=product(*_rounded(_joined(parts, 1 / (math.sqrt(size) * _LN2)), dtype)),
            mixed=product(*pair("attention.output.dense")),
            mixed_norm=norm("attention.output.LayerNorm"),
            wide=product(*pair("intermediate.dense")),
            narrow=product(*pair("output.dense")),
            narrow_norm=norm("output.LayerNorm"),
            heads=heads,
        )

    def projected(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [heads, positions, size] of the states.

        Powers of two with a query times a key weigh tokens: the scale is in the query.
        """
        heads = self.qkv(states).view(len(states), 3, self.heads, -1)
        query, key, value = heads.permute(1, 2, 0, 3).contiguous().unbind(0)
        return query, key, value

    def finished(self, states: Tensor, gathered: Tensor) -> Tensor:
        """Return the block's output [rows, width].

        `states` are those that entered, [rows, width]; `gathered` is what attention
        found for them, [rows, heads, size].
        """
        mixed = self.mixed(gathered.reshape(states.shape)).add_(states)
        mixed = self.mixed_norm(mixed)
        narrow = self.narrow(functional.gelu(self.wide(mixed)))
        return self.narrow_norm(narrow.add_(mixed))

    def __call__(self, states: Tensor, tokens: int, attention: Attention) -> Tensor:
        """Return the block's output [positions, width] for states of that shape."""
        return self.finished(states, attention.gather(*self.projected(states), tokens))


def first_attention(query: Tensor, key: Tensor, tokens: int) -> Tensor:
    """Return float32 [tokens]: how the first position attends, averaged over heads.

    `query` and `key` are what `BertLayer.projected` returned.
    """
    scores = query[:, :1].float() @ key[:, :tokens].float().transpose(1, 2)
    return scores.mul_(_LN2).softmax(dim=-1).mean(dim=0)[0]


def _rounded(
    pair: tuple[Tensor, Tensor], dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    weight, bias = pair
    return (weight, bias) if dtype is None else (weight.to(dtype), bias.to(dtype))


def _joined(
    parts: Sequence[tuple[Tensor, Tensor]], query_scale: float
) -> tuple[Tensor, Tensor]:
    """Return one weight and one bias of the three, the queries' scaled."""
    scales = (query_scale, 1.0, 1.0)
    weights, biases = (
        torch.cat(
            [
                one if scale == 1.0 else (one.float() * scale).to(one.dtype)
                for one, scale in zip(kind, scales, strict=True)
            ]
        )
        for kind in zip(*parts, strict=True)
    )
    return weights, biases
