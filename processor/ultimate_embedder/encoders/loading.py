"""Weights to a checked transformers encoder: one path for every architecture.

The model is put together on the CPU and refused there; only then it moves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..config import ModelConfig
from ..errors import ModelError, ModelMismatch
from ..models.facts import POSITIONS_AFTER_PADDING
from .bert_files import read_bert
from .out_of_memory import out_of_memory_named
from .pooling import check_pooling
from .precision import GUARDED_DTYPE, LOADING, guard_float16, loading_options

_UNUSED_WEIGHTS = "pooler."  # a head that no vector goes through


def load_encoder(path: Path, config: ModelConfig, *, device: str, dtype: str) -> Any:
    """Return a transformers model on `device`, checked against `config`.

    Code that came with the model runs only where `config` allows it by name.

    Raises:
        ModelError: the files cannot be loaded, or the family cannot give vectors.
        ModelMismatch: weights are missing, or width, window, pooling or what follows it
            are not what `config` states.
        DeviceOutOfMemory: it does not fit the device.
    """
    with out_of_memory_named(config.name, "cpu"):
        model = _from_files(path, config, dtype)
        if dtype == GUARDED_DTYPE:
            guard_float16(model, config.name)
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # nothing is generated: keys are not kept
    with out_of_memory_named(config.name, device):
        return model.eval().to(device)


def load_plain(path: Path, config: ModelConfig, *, dtype: str) -> Any | None:
    """Return the parameters of a BERT-like encoder, read and checked without importing
    transformers; None where `load_encoder` is needed.

    Raises:
        ModelMismatch: width, window, pooling or what follows it are not what `config`
            states.
        DeviceOutOfMemory: there is no room for it.
    """
    if config.trust_remote_code:
        return None
    with out_of_memory_named(config.name, "cpu"):
        model = read_bert(path, dtype)
    if model is not None:
        _check(model.config, config)
        check_pooling(path, config)
    return model


def padding_id(model: Any) -> int:
    """Return the id that fills up rows; 0 where the model names none of its own."""
    chosen = getattr(model.config, "pad_token_id", None)
    if isinstance(chosen, int) and 0 <= chosen < model.config.vocab_size:
        return chosen
    return 0


def _from_files(path: Path, config: ModelConfig, dtype: str) -> Any:
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    # Progress is told by events; a bar of a library's own would break lines up.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    trusted = config.trust_remote_code
    try:
        with LOADING:
            model, report = AutoModel.from_pretrained(
                path,
                **loading_options(dtype),
                local_files_only=True,
                trust_remote_code=trusted,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise ModelError(
            f"Model {config.name} cannot be loaded: {said[0][:200]}",
            cure=_cure(path, trusted),
        ) from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "mismatched" not in str(error):
            raise
        raise ModelMismatch(
            f"Model {config.name} has weights of other shapes than its config.json.",
            cure="Fetch or save its files again.",
        ) from error
    _check_weights(report["missing_keys"], config)
    _check(model.config, config)
    check_pooling(path, config)
    return model


def _cure(path: Path, trusted: bool) -> str:
    if not trusted and brings_code(path):
        return (
            "It brings code of its own, which is not run; choose another model, or "
            "allow it with --trust-remote-code after reading that code."
        )
    return f"Fetch or save its files again; they are in {path}."


def brings_code(path: Path) -> bool:
    """Say whether a model's folder names code of its own to be run."""
    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and "auto_map" in settings


def _check_weights(missing: Iterable[str], config: ModelConfig) -> None:
    """Refuse what transformers only warns of: weights left at random numbers."""
    lacking = sorted(name for name in missing if not name.startswith(_UNUSED_WEIGHTS))
    if lacking:
        raise ModelMismatch(
            f"Model {config.name} lacks {len(lacking)} weights in its files, the first "
            f"is {lacking[0]}.",
            cure="Fetch or save its files again.",
        )


def _check(loaded: Any, config: ModelConfig) -> None:
    if getattr(loaded, "is_encoder_decoder", False):
        raise ModelError(
            f"Model {config.name} is of the family {loaded.model_type}, an encoder "
            "with a decoder, which is not embedded with here.",
            cure="Choose an encoder, or a decoder with last-token pooling.",
        )
    width = getattr(loaded, "hidden_size", None)
    if width != config.vector_dim:
        raise ModelMismatch(
            f"Model {config.name} gives {width}-d vectors; the registry "
            f"says {config.vector_dim}."
        )
    positions = usable_positions(loaded)
    if positions is not None and config.max_tokens > positions:
        raise ModelMismatch(
            f"Model {config.name} has {positions} positions; the registry's window "
            f"is {config.max_tokens}."
        )


def usable_positions(loaded: Any) -> int | None:
    """Return how many tokens a model has positions for, None: it does not say."""
    positions: int | None = getattr(loaded, "max_position_embeddings", None)
    if positions is None:
        return None
    family = str(loaded.model_type)
    if any(name in family for name in POSITIONS_AFTER_PADDING):
        return positions - (loaded.pad_token_id or 0) - 1
    return positions
