"""A sequence classifier with one output from its files, checked, for rerank.

Any family that transformers classifies sequences with: BERT, XLM-RoBERTa, ModernBERT,
Qwen2 and Qwen3. Weights left at random numbers, more outputs than one and code that
would have to be run are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer

from ..config import RerankingConfig
from ..errors import ModelError, ModelMismatch, ModelNotAvailable
from .bert_pairs import BertPairs, BertShape
from .difference_model import base_config, load_difference
from .loading import brings_code, usable_positions
from .out_of_memory import out_of_memory_named
from .precision import GUARDED_DTYPE, LOADING, guard_float16, loading_options
from .sources import locate_model

_CURE = "Choose a CrossEncoder with one output, saved as safetensors."
_PAIRWISE = "bge-reranker-v2-m3, ms-marco-minilm-l6 or residual-minilm-l6"
_SETTINGS = (
    "model_type",
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "type_vocab_size",
)


@dataclass(frozen=True, slots=True)
class Classifier:
    """A loaded model: `BertPairs`, or a classifier of transformers on its device.

    `path` is the folder with its tokenizer; `segments` tells whether it is given token
    type ids.
    """

    model: Any
    path: Path
    segments: bool
    dtype: str


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Parameters, the folder with their tokenizer, and a model if one was made."""

    config: Any
    state: Mapping[str, torch.Tensor]
    path: Path
    dtype: str
    model: Any = None


def load_classifier(
    config: RerankingConfig,
    *,
    device: str,
    dtype: str,
    offline: bool,
    alone: bool | None = None,
) -> Classifier:
    """Find, load, check and move the model that `config` names.

    `alone`: take the form for single pairs where there is one, by default on a CPU.

    Raises:
        ModelNotAvailable: its files are not here and cannot be fetched, or it ranks
            lists with code of its own.
        ModelMismatch: it has not one output, lacks weights, has a shorter window than
            stated, or its difference belongs to another base.
        ModelError: the files cannot be loaded.
        DeviceOutOfMemory: it does not fit the device.
    """
    _refuse_listwise(config)
    alone = device == "cpu" if alone is None else alone
    with out_of_memory_named(config.name, "cpu"):
        if config.difference:
            loaded = _put_together(config, offline, alone)
        else:
            loaded = _from_files(config, offline, alone, dtype)
        _check(loaded.config, config)
        lean = _lean(loaded, dtype) if alone else None
        model: Any = lean or _classifier(loaded, config.name)
    if lean is None:
        with out_of_memory_named(config.name, device):
            model = model.to(device)
    return Classifier(
        model=model,
        path=loaded.path,
        segments=_uses_segments(loaded.path, loaded.config),
        dtype=dtype if lean is not None else loaded.dtype,
    )


def read_pair_tokenizer(path: Path, config: RerankingConfig) -> Tokenizer:
    """Return the tokenizer in a folder, cutting pairs to the window, without padding.

    Raises:
        ModelNotAvailable: there is no tokenizer.json.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelNotAvailable(
            f"Reranker {config.name} has no tokenizer.json.",
            cure="Save the model once with a fast tokenizer.",
        )
    tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config.max_tokens, strategy="longest_first")
    return tokenizer


def _refuse_listwise(config: RerankingConfig) -> None:
    if config.listwise:
        raise ModelNotAvailable(
            f"Reranker {config.name} ranks whole lists with code of its own, which is "
            "not run.",
            cure=f"Choose {_PAIRWISE}.",
        )


def _from_files(
    config: RerankingConfig, offline: bool, alone: bool, dtype: str
) -> _Loaded:
    # Imported here: a reranker that is a difference is read without it on a CPU.
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    # A bar of its own would break the run's display.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    location = locate_model(
        config.hf_model_id,
        revision=config.revision,
        offline=offline,
        trust_remote_code=config.trust_remote_code,
    )
    asked: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": config.trust_remote_code,
    }
    try:
        stated = AutoConfig.from_pretrained(location.path, **asked)
        if alone and BertShape.of(stated) is not None:
            dtype = "float32"  # rounded later, by the form for single pairs
        with LOADING:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                location.path,
                **loading_options(dtype),
                **asked,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"Reranker {config.name} cannot be loaded: {reason}",
            cure=_cure(location.path, config),
        ) from error
    _check_weights(report["missing_keys"], config)
    return _Loaded(model.config, model.state_dict(), location.path, dtype, model)


def _cure(path: Path, config: RerankingConfig) -> str:
    if brings_code(path) and not config.trust_remote_code:
        return f"It brings code of its own, which is not run; choose {_PAIRWISE}."
    return _CURE


def _put_together(config: RerankingConfig, offline: bool, alone: bool) -> _Loaded:
    found = load_difference(config, offline=offline)
    state = {name: torch.from_numpy(tensor) for name, tensor in found.state.items()}
    settings = base_config(found.base)
    stated: Any = _plain_settings(settings) if alone else None
    return _Loaded(stated or _bert_config(settings), state, found.base, "float32")


def _plain_settings(settings: Mapping[str, Any]) -> SimpleNamespace | None:
    """Return a configuration without transformers, None where it leaves out some."""
    if not all(name in settings for name in _SETTINGS):
        return None
    return SimpleNamespace(**settings, num_labels=1)


def _bert_config(settings: Mapping[str, Any]) -> Any:
    from transformers import BertConfig

    return BertConfig(**settings)


def _lean(loaded: _Loaded, dtype: str) -> BertPairs | None:
    """Return the form for single pairs on a CPU, None where the model has none."""
    shape = BertShape.of(loaded.config)
    if shape is None or shape.parameters() != set(loaded.state):
        return None
    return BertPairs(loaded.state, shape, getattr(torch, dtype))


def _classifier(loaded: _Loaded, name: str) -> Any:
    """Return the model of transformers, made now where none was loaded."""
    model = loaded.model
    if model is None:
        from transformers import BertForSequenceClassification

        stated = loaded.config
        if isinstance(stated, SimpleNamespace):
            settings = dict(vars(stated))
            del settings["num_labels"]
            stated = _bert_config(settings)
        model = BertForSequenceClassification(stated)
        model.load_state_dict(loaded.state)
    if loaded.dtype == GUARDED_DTYPE:
        guard_float16(model, name)
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # nothing is generated: keys are not kept
    return model.eval()


def _check_weights(missing: Iterable[str], config: RerankingConfig) -> None:
    """Refuse what transformers only warns of: weights left at random numbers."""
    lacking = sorted(missing)
    if lacking:
        raise ModelMismatch(
            f"Reranker {config.name} lacks {len(lacking)} weights in its files, the "
            f"first is {lacking[0]}.",
            cure=_CURE,
        )


def _uses_segments(path: Path, loaded: Any) -> bool:
    """Say whether the model tells query from document by token type ids.

    It has to have types, and its tokenizer's list of inputs, if there is one, to name
    them.
    """
    if not (getattr(loaded, "type_vocab_size", 0) or 0) > 1:
        return False
    file = path / "tokenizer_config.json"
    if not file.is_file():
        return True
    names = json.loads(file.read_bytes()).get("model_input_names")
    return names is None or "token_type_ids" in names


def _check(loaded: Any, config: RerankingConfig) -> None:
    if loaded.num_labels != 1:
        raise ModelMismatch(
            f"Reranker {config.name} has {loaded.num_labels} outputs, not one.",
            cure=_CURE,
        )
    positions = usable_positions(loaded)
    if config.max_tokens > (math.inf if positions is None else positions):
        raise ModelMismatch(
            f"Reranker {config.name} has {positions} positions; its window is set to "
            f"{config.max_tokens}."
        )
