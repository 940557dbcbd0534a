"""In which precision a device computes a model, and float16 that does not overflow.

float16 ends at 65,504, and inner values of some decoders (Qwen, Gemma) go beyond it. So
under float16 only weights, products of matrices and attention's inputs are 16 bits
wide: each row that enters a product is scaled by a power of two, which is exact, and
the result is scaled back in float32. Norms, the residual stream, gates, softmax,
pooling and normalisation are float32. A value that is still not finite is an error.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import torch
from torch import nn

from ..errors import ModelError

GUARDED_DTYPE = "float16"
GUARDED_ATTENTION = "sdpa_guarded_float16"

LOADING = threading.Lock()
"""Held around every `from_pretrained`: while it builds a model it sets torch's default
precision and replaces methods for the whole process, and two at once put back each
other's."""

_BFLOAT16_CAPABILITY = (8, 0)
_FLOAT16_CAPABILITY = (7, 0)
_P100_CAPABILITY = (6, 0)
_CURE = "Choose a device with bfloat16, or compute in float32: --device cpu does."
_CURE_WIDE = "Fetch or save its files again, or choose another model."


def cuda_dtype(device: str) -> str:
    """Return the precision that a card computes natively and fast.

    bfloat16 from compute capability 8.0, float16 on 7.x (a T4) and on 6.0 (a P100),
    float32 on others: they compute 16 bits slower than 32.
    """
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16_CAPABILITY:
        return "bfloat16"
    if capability >= _FLOAT16_CAPABILITY or capability == _P100_CAPABILITY:
        return "float16"
    return "float32"


def loading_options(dtype: str) -> dict[str, Any]:
    """Return what `from_pretrained` is told for a precision.

    For float16 weights come as they were saved, so that norms lose nothing.
    """
    if dtype == GUARDED_DTYPE:
        register_guarded_attention()
        return {"dtype": "auto", "attn_implementation": GUARDED_ATTENTION}
    return {"dtype": getattr(torch, dtype)}


def guard_float16(model: nn.Module, name: str) -> None:
    """Make a loaded model compute in float16 without overflow, in place.

    Raises:
        ModelError: a weight itself is beyond float16.
    """
    for module in list(model.modules()):
        for child_name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, child_name, ScaledLinear(child))
            elif type(child) is nn.Embedding:
                setattr(module, child_name, WideEmbedding(child))
    halves = (ScaledLinear, WideEmbedding)
    for module in model.modules():
        if isinstance(module, halves):
            if not module.weight.isfinite().all():
                raise ModelError(
                    f"Model {name} has weights beyond float16's 65,504.", cure=_CURE
                )
        else:
            _widen(module)


def check_finite(vectors: torch.Tensor, name: str, dtype: str) -> None:
    """Refuse vectors [rows, width] that overflowed on their way.

    Raises:
        ModelError: naming model, precision and cure.
    """
    if not vectors.isfinite().all():
        raise ModelError(
            f"Model {name} gave values that are not finite, computed in {dtype}.",
            cure=_CURE if dtype == GUARDED_DTYPE else _CURE_WIDE,
        )


class ScaledLinear(nn.Module):
    """A linear layer of float16 weights whose rows are scaled to lie within 1.

    Shapes and sums are those of the `nn.Linear` it stands for; bias and result are
    float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Take over the weights of `linear`, rounded."""
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = nn.Parameter(linear.weight.detach().half(), requires_grad=False)
        bias = linear.bias
        self.bias = (
            None
            if bias is None
            else nn.Parameter(bias.detach().float(), requires_grad=False)
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return float32 [..., out_features] from [..., in_features]."""
        states = states.float()
        _, exponent = torch.frexp(states.abs().amax(dim=-1, keepdim=True))
        scaled = torch.ldexp(states, -exponent).half()
        product = nn.functional.linear(scaled, self.weight).float()
        product = torch.ldexp(product, exponent)
        return product if self.bias is None else product + self.bias


class WideEmbedding(nn.Module):
    """An embedding of float16 weights that gives float32."""

    def __init__(self, embedding: nn.Embedding) -> None:
        """Take over the weights of `embedding`, rounded."""
        super().__init__()
        self.padding_idx = embedding.padding_idx
        self.weight = nn.Parameter(
            embedding.weight.detach().half(), requires_grad=False
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return float32 [..., width] from ids [...]."""
        return nn.functional.embedding(ids, self.weight).float()


def _widen(module: nn.Module) -> None:
    """Make a module's own parameters and buffers of floats float32."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.float()
    for name, buffer in module.named_buffers(recurse=False):
        if buffer is not None and buffer.is_floating_point():
            setattr(module, name, buffer.float())


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return float32 attention of float16 inputs: SDPA sums and exponentiates wide.

    Keys and values that heads share are repeated here. Left to SDPA, a pass without a
    mask would have all scores in memory on cards before 8.0, which lack the kernel.
    """
    from transformers.integrations.sdpa_attention import (
        repeat_kv,
        sdpa_attention_forward,
    )

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.half()
    shared = getattr(module, "num_key_value_groups", 1)
    found, _ = sdpa_attention_forward(
        _Ungrouped(getattr(module, "is_causal", True)),
        query.half(),
        repeat_kv(key.half(), shared),
        repeat_kv(value.half(), shared),
        attention_mask,
        **options,
    )
    return found.float(), None


class _Ungrouped(nn.Module):
    """All that SDPA's caller asks of an attention whose heads share nothing."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


@cache
def register_guarded_attention() -> None:
    """Make transformers know the attention by its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(GUARDED_ATTENTION, _attention)
    AttentionMaskInterface.register(GUARDED_ATTENTION, sdpa_mask)
