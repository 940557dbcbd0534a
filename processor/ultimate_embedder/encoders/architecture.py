"""A model's shape, from config.json and the headers of its safetensors: no weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..memory_cost import Architecture, Head
from .weight_files import INDEX, WEIGHTS, indexed_parts

_CURE = "Fetch or save its files again: config.json and safetensors."
_HEADER_BYTES = 100 * 2**20  # no model's header is longer; what is, is damaged
_LENGTH = struct.Struct("<Q")

_NAMES = {
    "layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "hidden": ("hidden_size", "dim", "n_embd"),
    "intermediate": ("intermediate_size", "hidden_dim", "n_inner"),
    "heads": ("num_attention_heads", "n_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}
"""What a figure is called, family by family."""

_GATED = ("silu", "swish", "swiglu", "geglu")
_GATED_FAMILIES = ("modernbert", "gemma", "gemma2", "gemma3")
_PLAIN_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")
_HEADS: dict[str, Head] = {
    "ForMaskedLM": "masked-lm",
    "ForSequenceClassification": "classifier",
}
_HEAD_WEIGHTS = (
    "lm_head.",
    "cls.",
    "classifier.",
    "score.",
    "vocab_",
    "pre_classifier.",
    "decoder.",
    "head.",
)


def read_architecture(folder: Path, head: Head | None = None) -> Architecture:
    """Return the shape of the model in a folder.

    `head` is what will be loaded on top of it, None: what config.json says was saved.
    Weights of a head that will not be loaded are not counted.

    Raises:
        ModelError: a file is missing or cannot be read, or says no shape.
    """
    stated = _config(folder)
    chosen = head or _saved_head(stated)
    heads = _figure(stated, "heads", folder)
    hidden = _figure(stated, "hidden", folder)
    family = str(stated.get("model_type", "unknown"))
    return Architecture(
        family=family,
        layers=_figure(stated, "layers", folder),
        hidden=hidden,
        intermediate=_figure(stated, "intermediate", folder, default=4 * hidden),
        heads=heads,
        kv_heads=_positive(stated.get("num_key_value_heads")) or heads,
        head_size=_positive(stated.get("head_dim")) or math.ceil(hidden / heads),
        vocabulary=_figure(stated, "vocabulary", folder),
        gated=_is_gated(family, stated),
        head=chosen,
        parameters=_parameters(folder, chosen),
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", cure=_CURE) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no settings of a model.", cure=_CURE)
    return found


def _saved_head(stated: dict[str, Any]) -> Head:
    names = stated.get("architectures") or ()
    for name in names:
        for ending, head in _HEADS.items():
            if str(name).endswith(ending):
                return head
    return "none"


def _figure(
    stated: dict[str, Any], what: str, folder: Path, default: int | None = None
) -> int:
    for name in _NAMES[what]:
        if found := _positive(stated.get(name)):
            return found
    if default is not None:
        return default
    raise ModelError(
        f"{folder / 'config.json'} does not say {' or '.join(_NAMES[what])}.",
        cure=_CURE,
    )


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _is_gated(family: str, stated: dict[str, Any]) -> bool:
    """Say whether the intermediate states are two, one of them a gate.

    An unknown family counts as gated, which takes more.
    """
    if family in _PLAIN_FAMILIES:
        return False
    if family in _GATED_FAMILIES:
        return True
    activation = stated.get("hidden_act", stated.get("activation_function"))
    return activation is None or activation in _GATED


def _parameters(folder: Path, head: Head) -> int:
    """Return how many figures the weight files hold, by their headers."""
    return sum(
        math.prod(tensor["shape"])
        for path in _weight_files(folder)
        for name, tensor in _header(path)
        if tensor["dtype"].startswith(("F", "BF"))
        and (head != "none" or not name.startswith(_HEAD_WEIGHTS))
    )


def _weight_files(folder: Path) -> list[Path]:
    """Return the file of the weights, or the shards that the index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    parts = indexed_parts(folder)
    if not parts:
        raise ModelError(
            f"{folder} holds neither {WEIGHTS} nor a usable {INDEX}.", cure=_CURE
        )
    return [folder / name for name in parts]


def _header(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name, and dtype and shape, of each tensor.

    The format: eight bytes little-endian, the length of a JSON object that follows.
    """
    try:
        with path.open("rb") as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > _HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            tensors = json.loads(stream.read(length))
        tensors.pop("__metadata__", None)
        for tensor in tensors.values():
            math.prod(tensor["shape"])
            str(tensor["dtype"])
    except (
        OSError,
        ValueError,
        struct.error,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ModelError(f"{path} cannot be read: {error}", cure=_CURE) from error
    yield from tensors.items()
