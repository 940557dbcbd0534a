"""What a forward pass takes of a device's memory, reckoned from a model's shape.

Without gradients one layer is alive at a time. So the peak of a pass is the weights and
the largest set of tensors that live together at one step of a layer. The steps below
follow the order of transformers' modules; a test counts the bytes of real passes and
holds this file to them. Everything is in bytes, rounded up to whole ones.

Words: `h`, `i`, `a`, `k` are bytes of one position's hidden state, intermediate state,
queries and keys. Attention is fused (SDPA) unless said: scores are never whole, but
the mask is, once as booleans and once in the queries' precision, a row of it for each
position. [CLS] attention for BM42 needs one row of scores for each head and is cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .config import GPU_CONTEXT_BYTES, GPU_MARGIN_BYTES

Head = Literal["none", "masked-lm", "classifier"]
Attention = Literal["fused", "materialised"]

USEFUL_POSITIONS = 65_536
"""The most positions of one batch: plenty for a GPU's products, while a kill or a
failure costs little. A choice, not a measurement."""
PLANNING_DTYPE = "float16"
"""What a plan reckons with, whatever the card computes in: the 16 bits of a T4, whose
inner values are float32 and take the most."""
LENGTH_MULTIPLE = 8
"""A GPU's passes are padded to it."""
LOGIT_SLICE_BYTES = 16 * 2**20
"""The most that SPLADE's logits take at once, as float32."""
ALLOCATOR_SHARE = 0.05
"""Of activations, on top: blocks are rounded up and cut, so that more is reserved than
is in use."""

BUFFER_BYTES = 256 * 2**10
"""Reckoned for what a model holds beside the weights of its files: tables of positions
and frequencies."""

_FLOAT32_BYTES = 4
_INT64_BYTES = 8
_INTEGER_BYTES = 64  # ids, mask, positions, types of one position, and their sums
_RMS = frozenset({"qwen2", "qwen3"})
_LAYER_NORM_AFTER = frozenset(
    {"bert", "distilbert", "roberta", "xlm-roberta", "camembert"}
)
_KNOWN = _RMS | _LAYER_NORM_AFTER | {"nomic_bert", "modernbert"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model's shape as its files state it.

    `family` is the `model_type` of config.json, `head_size` the width of one attention
    head, `parameters` what the weight files hold for the parts that are loaded.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    gated: bool
    head: Head
    parameters: int

    @property
    def known(self) -> bool:
        """Whether its layers were studied; others are reckoned as the costliest."""
        return self.family in _KNOWN


def weight_bytes(architecture: Architecture, dtype: str) -> int:
    """Return what the weights take; under float16 norms and biases are float32."""
    size = 2 if dtype in ("float16", "bfloat16") else _FLOAT32_BYTES
    found = BUFFER_BYTES + architecture.parameters * size
    if dtype == "float16":
        one = 12 * architecture.hidden + 4 * architecture.intermediate
        found += architecture.layers * one * (_FLOAT32_BYTES - size)
    return found


def activation_bytes(
    architecture: Architecture,
    dtype: str,
    *,
    rows: int,
    length: int,
    attention: Attention = "fused",
) -> int:
    """Return the most that the tensors of a pass over [rows, length] take together.

    Weights are not among them.
    """
    return _pass_bytes(architecture, dtype, rows * length, length, attention)


def room_bytes(cap_bytes: int) -> int:
    """Return what weights and activations may take under a cap.

    Beside them stand the CUDA context and the margin that is kept free.
    """
    return cap_bytes - GPU_CONTEXT_BYTES - GPU_MARGIN_BYTES


def planned_peak_bytes(
    architecture: Architecture,
    dtype: str,
    *,
    rows: int,
    length: int,
    factor: float = 1.0,
    attention: Attention = "fused",
) -> int:
    """Return what a process holds on a card at most: context, weights, activations.

    `factor` is what a calibration found; the margin is not counted.
    """
    activations = activation_bytes(
        architecture, dtype, rows=rows, length=length, attention=attention
    )
    return (
        GPU_CONTEXT_BYTES
        + weight_bytes(architecture, dtype)
        + reserved_bytes(activations, factor)
    )


def reserved_bytes(activations: int, factor: float = 1.0) -> int:
    """Return what an allocator reserves for so many bytes of tensors."""
    return math.ceil(activations * factor * (1 + ALLOCATOR_SHARE))


def token_budget(
    architecture: Architecture,
    dtype: str,
    *,
    room_bytes: int,
    longest: int,
    factor: float = 1.0,
    most: int = USEFUL_POSITIONS,
) -> int:
    """Return the most positions, rows times length, of a pass that stays in the room.

    It holds for every length up to `longest`: a position costs most in the longest
    text. 0: not even one position of it fits. `most` bounds it from above.
    """
    left = room_bytes - weight_bytes(architecture, dtype)
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        cost = _pass_bytes(architecture, dtype, middle, longest, "fused")
        if reserved_bytes(cost, factor) <= left:
            low = middle
        else:
            high = middle - 1
    return low


def padded_length(tokens: int, window: int) -> int:
    """Return the positions that a GPU computes for a text of `tokens`."""
    padded = math.ceil(tokens / LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    return max(tokens, min(padded, window))


@dataclass(frozen=True, slots=True)
class _Widths:
    """Bytes of one position's tensors; see the head of this file for the letters."""

    h: int
    i: int
    a: int
    k: int
    size: int  # bytes of a figure in the residual stream
    mask: int  # of one boolean mask's row
    wide_mask: int  # the same for the kernel
    guarded: bool
    heads: int

    @classmethod
    def of(cls, model: Architecture, dtype: str, length: int) -> _Widths:
        """Reckon the widths in a precision, for texts of this length."""
        size = 2 if dtype == "bfloat16" else _FLOAT32_BYTES
        kernel = _FLOAT32_BYTES if dtype == "float32" else 2
        copies = 1 if length % LENGTH_MULTIPLE == 0 else 2  # kernels want it aligned
        return cls(
            h=model.hidden * size,
            i=model.intermediate * size,
            a=model.heads * model.head_size * size,
            k=model.kv_heads * model.head_size * size,
            size=size,
            mask=length,
            wide_mask=length * kernel * copies,
            guarded=dtype == "float16",
            heads=model.heads,
        )

    def product(self, given: int, found: int) -> int:
        """Return what a linear layer takes beside its input, its result included.

        Under float16 the input is scaled in float32 and halved, and the result widened
        and scaled back: see `precision.ScaledLinear`.
        """
        if not self.guarded:
            return found
        return max(given + given // 2, given // 2 + 2 * found)


def _pass_bytes(
    model: Architecture, dtype: str, positions: int, length: int, attention: Attention
) -> int:
    """Return what positions of texts of one length take at the costliest step."""
    w = _Widths.of(model, dtype, length)
    found = positions * _layer_bytes(model, w, attention)
    found += _table_bytes(model, w, length)
    if model.head == "masked-lm":
        states = positions * (_INTEGER_BYTES + w.h)
        found = max(found, states + _logit_bytes(model, dtype, length))
    return max(found, _before_layers(model, w, positions, length))


def _before_layers(model: Architecture, w: _Widths, positions: int, length: int) -> int:
    """Return what masks and rotary tables take while they are made."""
    made = 8 * length * model.head_size * _FLOAT32_BYTES
    if _has_two_masks(model):
        # How far apart two positions are, as two tables of int64.
        made = max(made, 2 * _INT64_BYTES * length**2)
    return positions * (_INTEGER_BYTES + w.h + w.mask) + made


def _has_two_masks(model: Architecture) -> bool:
    """Say whether some layers attend to a neighbourhood alone."""
    return model.family == "modernbert" or not model.known


def _layer_bytes(model: Architecture, w: _Widths, attention: Attention) -> int:
    """Return what one position takes at the costliest step of a layer."""
    # The embeddings and the layer's input are alive through all of a layer.
    held = _INTEGER_BYTES + w.mask * (2 if _has_two_masks(model) else 1) + 2 * w.h
    steps = (
        held + _attention_step(model, w, attention),
        held + _rotary_step(model, w),
        held + _mlp_step(model, w),
        held + _norm_step(model, w),
        held - 2 * w.h + _ends_step(model, w),
        held + w.h + 2 * w.mask,  # masks of padding and order, joined
    )
    return max(steps)


def _ends_step(model: Architecture, w: _Widths) -> int:
    """Return embeddings of three kinds, their sum and norm; or the states pooled.

    Pooling is in float32: a copy where they are narrower, and its product with a mask.
    """
    wide = model.hidden * _FLOAT32_BYTES
    return max(5 * w.h, w.h + wide + (wide if w.size < _FLOAT32_BYTES else 0))


def _attention_step(model: Architecture, w: _Widths, attention: Attention) -> int:
    """Return queries, keys, values, the kernel's mask and its result, twice over.

    Heads that share keys have them repeated where there is a mask; one pair of keys and
    values for all heads is not copied. Rotated queries and
    keys stand beside the joint projection they come from (ModernBERT).
    """
    before = 0 if model.family in _LAYER_NORM_AFTER else w.h
    inputs = w.a + 2 * w.k
    if model.family == "modernbert" or not model.known:
        inputs += w.a + w.k
    repeated = 2 * w.a if 1 < model.kv_heads < model.heads else 0
    statistics = w.heads * _FLOAT32_BYTES
    result = max(w.wide_mask + w.a, 2 * w.a)
    if w.guarded:
        halves = (w.a + 2 * w.k) // 2
        result = halves + max(w.wide_mask + w.a // 2, w.a)
        repeated //= 2
    if attention == "materialised":
        # Scores, their softmax in float32, and that in the residual's precision.
        scores = w.heads * w.mask
        result += scores * (2 * w.size + _FLOAT32_BYTES)
    kernel = before + inputs + repeated + result + statistics
    last = before + inputs - w.k + w.product(w.h, w.k)
    out = before + inputs + w.a + w.product(w.a, w.h)
    return max(kernel, last, out)


def _rotary_step(model: Architecture, w: _Widths) -> int:
    """Return queries and keys while they are rotated: product, turned copy, product."""
    if model.family in _LAYER_NORM_AFTER:
        return 0
    before = w.h if model.family != "nomic_bert" else 0
    plain = w.a + 2 * w.k
    if model.family == "modernbert" or not model.known:
        # In float32, both results of it alive.
        wide = w.a // w.size * _FLOAT32_BYTES
        return before + plain + 4 * wide + (w.a if w.size < _FLOAT32_BYTES else 0)
    turned = max(3 * w.a, w.a + 3 * w.k)
    if model.family == "qwen3":
        wide = w.a // w.size * 2 * _FLOAT32_BYTES
        turned = max(turned, wide - 2 * w.k)  # queries are normed before keys are made
    return before + plain + turned


def _mlp_step(model: Architecture, w: _Widths) -> int:
    """Return the intermediate states that live together, and what they come from.

    Gated: gate, its activation times the other half, and the product. Plain: before and
    after the activation; then the sum and its norm beside it.
    """
    if model.family == "modernbert" or not model.known:
        gated = max(4 * w.i, 2 * w.i + w.i + w.product(w.i, w.h))
        return 3 * w.h + max(gated, w.product(w.h, 2 * w.i))
    if model.gated:
        up = w.i + w.product(w.h, w.i)
        return 2 * w.h + max(3 * w.i, up, w.i + w.product(w.i, w.h))
    up, down = w.product(w.h, w.i), w.i + w.product(w.i, w.h)
    return w.h + max(2 * w.i, up, down, w.i + 3 * w.h)


def _norm_step(model: Architecture, w: _Widths) -> int:
    """Return a norm's input, and its inner values in float32."""
    if model.family in _LAYER_NORM_AFTER:
        return w.a + 3 * w.h
    return w.h + 2 * (w.h // w.size) * _FLOAT32_BYTES


def _table_bytes(model: Architecture, w: _Widths, length: int) -> int:
    """Return rotary tables, cosines and sines by length: one pair for each mask."""
    if model.family in _LAYER_NORM_AFTER:
        return 0
    pairs = 2 if _has_two_masks(model) else 1
    return pairs * 2 * length * model.head_size * w.size


def _logit_bytes(model: Architecture, dtype: str, length: int) -> int:
    """Return a slice of one text's logits, which is never larger than stated.

    Beside it stand maxima, their logarithms and what of them is not zero.
    """
    slice_positions = min(
        length, max(1, LOGIT_SLICE_BYTES // (_FLOAT32_BYTES * model.vocabulary))
    )
    figure = {"float32": 4, "bfloat16": 2}.get(dtype, 8)
    return model.vocabulary * (slice_positions * figure + 6 * _FLOAT32_BYTES)
