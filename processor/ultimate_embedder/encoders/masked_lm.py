"""A masked language model from its files, with the vocabulary head taken off."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForMaskedLM
from transformers.utils.logging import disable_progress_bar

from ..errors import ModelError, ModelMismatch
from .loading import usable_positions
from .out_of_memory import out_of_memory_named
from .precision import GUARDED_DTYPE, LOADING, guard_float16, loading_options
from .splade_source import SpladeSource

_CURE = "Choose a SPLADE model: a masked language model saved as safetensors."


def load_masked_lm(source: SpladeSource) -> tuple[nn.Module, nn.Module]:
    """Return a model whose `logits` are states [rows, length, hidden], and its head.

    The head is the linear layer from such states to the vocabulary. Both are on the
    source's device, in its precision, without dropout.

    Raises:
        ModelError: the files cannot be loaded.
        ModelMismatch: weights are missing, or the window or the vocabulary is not what
            is stated.
        DeviceOutOfMemory: it does not fit the device.
    """
    # A bar of its own would break the run's display.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    name = source.config.name
    with out_of_memory_named(name, "cpu"):
        model = _from_files(source)
        bare = _take_off_head(model, source)
        guarded = source.dtype == GUARDED_DTYPE
        head = _guarded(model, bare, name) if guarded else bare
    with out_of_memory_named(name, source.device):
        return model.eval().to(source.device), head.eval().to(source.device)


def _guarded(model: Any, head: nn.Linear, name: str) -> nn.Module:
    """Guard both; weights that head and embeddings shared are shared afterwards."""
    tied = head.weight is model.get_input_embeddings().weight
    guard_float16(model, name)
    holder = nn.ModuleList([head])
    guard_float16(holder, name)
    if tied:
        holder[0].weight = model.get_input_embeddings().weight
    return holder[0]


def _from_files(source: SpladeSource) -> Any:
    name = source.config.name
    try:
        with LOADING:
            model, report = AutoModelForMaskedLM.from_pretrained(
                source.location.path,
                **loading_options(source.dtype),
                local_files_only=True,
                trust_remote_code=source.config.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"Sparse model {name} cannot be loaded: {reason}", cure=_CURE
        ) from error
    if lacking := sorted(report["missing_keys"]):
        raise ModelMismatch(
            f"Sparse model {name} lacks {len(lacking)} weights in its files, the first "
            f"is {lacking[0]}.",
            cure=_CURE,
        )
    positions = usable_positions(model.config)
    if positions is not None and source.config.max_tokens > positions:
        raise ModelMismatch(
            f"Sparse model {name} has {positions} positions; its window is set to "
            f"{source.config.max_tokens}."
        )
    return model


def _take_off_head(model: Any, source: SpladeSource) -> nn.Linear:
    """Put nothing in the place of the vocabulary layer, and return that layer."""
    head = model.get_output_embeddings()
    size = source.vocabulary_size
    if type(head) is not nn.Linear or head.out_features != size:
        raise ModelMismatch(
            f"Sparse model {source.config.name} has no linear head over its vocabulary "
            f"of {size}.",
            cure=_CURE,
        )
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child is head:
                setattr(module, name, nn.Identity())
    found: nn.Linear = head
    return found
