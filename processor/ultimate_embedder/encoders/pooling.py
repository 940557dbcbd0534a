"""Hidden states to one vector a text, in float32; and what a folder says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..config import ModelConfig, Pooling
from ..errors import ModelMismatch

_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_LIBRARY = "sentence_transformers."
_DONE_HERE = frozenset({"transformer", "pooling", "normalize"})


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return float32 [rows, width] from hidden states [rows, length, width].

    `mask` is int64 [rows, length], 1 for tokens; padding may stand on either side.
    """
    states = hidden.float()
    places = torch.arange(mask.shape[1], device=mask.device)
    every = torch.arange(len(states), device=states.device)
    if pooling == "cls":
        return states[every, mask.argmax(dim=1)]
    if pooling == "last":
        return states[every, (mask * places).argmax(dim=1)]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def pool_one(states: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return float32 [width] from the states of one text without padding."""
    if pooling == "mean":
        return states.float().mean(dim=0)
    return states[0 if pooling == "cls" else -1].float()


def check_pooling(path: Path, config: ModelConfig) -> None:
    """Refuse a folder that was trained with another pooling, or with more after it.

    Raises:
        ModelMismatch: naming what differs.
    """
    further = _modules(path) - _DONE_HERE
    if further:
        raise ModelMismatch(
            f"Model {config.name} has a further module, "
            f"{', '.join(sorted(further))}: its vectors would not be the model's own.",
            cure="Choose a model of a transformer and pooling alone.",
        )
    stated = _stated_pooling(path)
    if stated and stated != config.pooling:
        raise ModelMismatch(
            f"Model {config.name} was trained with {stated} pooling; the registry "
            f"says {config.pooling}."
        )


def _modules(path: Path) -> set[str]:
    """Return the kinds of modules that a sentence-transformers folder lists.

    One of the model's own keeps its full name: whatever it is called, it may do more.
    """
    file = path / "modules.json"
    if not file.is_file():
        return set()
    listed: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    kinds = (str(module["type"]) for module in listed)
    return {
        kind.rpartition(".")[2].lower() if kind.startswith(_LIBRARY) else kind
        for kind in kinds
    }


def _stated_pooling(path: Path) -> Pooling | None:
    """Read what a sentence-transformers folder says of its pooling, if it does."""
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    named = settings.get("pooling_mode")
    if isinstance(named, str):
        return _NAMES.get(named)
    chosen = [pooling for key, pooling in _MODES.items() if settings.get(key)]
    return chosen[0] if len(chosen) == 1 else None
