"""From what an operator typed, a key or a local folder, to a model's configuration.

The registry goes first. A folder is described by the files that Hugging Face models
carry: `config.json`, `sentence_bert_config.json`, `1_Pooling/config.json`,
`config_sentence_transformers.json`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from . import catalogue
from .config import ModelConfig, Pooling, RerankingConfig, SparseModelConfig
from .errors import ModelError, UnknownModel, UsageError
from .retrieval.blend import BlendConfig

_VECTOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIFFERENCE = "difference.safetensors"
_POOLING: tuple[tuple[str, Pooling], ...] = (
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_lasttoken", "last"),
    ("pooling_mode_mean_tokens", "mean"),
)


def choose_dense(value: str) -> ModelConfig:
    """Return the dense model of a registry key or of a local folder.

    Raises:
        UnknownModel: neither, naming the keys that exist and the nearest.
        ModelError: the folder does not describe a model.
    """
    known = catalogue.KAGGLE_OPTIMIZED_MODELS
    if value in known:
        return known[value]
    folder = _model_folder(value, "dense", known)
    return describe_dense_folder(folder)


def choose_sparse(value: str) -> SparseModelConfig:
    """Return the sparse model of a registry key or of a local SPLADE folder.

    Raises:
        UnknownModel: neither, naming the keys that exist and the nearest.
        ModelError: the folder holds no masked language model.
    """
    known = catalogue.SPARSE_MODELS
    if value in known:
        return known[value]
    folder = _model_folder(value, "sparse", known)
    return describe_splade_folder(folder)


def describe_splade_folder(folder: Path) -> SparseModelConfig:
    """Return the SPLADE model that a masked language model's own files state.

    Raises:
        ModelError: its `architectures` name no masked language model.
    """
    model = _read(folder / "config.json")
    named = model.get("architectures")
    if not any(str(name).endswith("ForMaskedLM") for name in named or ()):
        raise ModelError(
            f"{folder / 'config.json'} names no masked language model.",
            cure="Give the folder of a SPLADE model in Hugging Face layout.",
        )
    window = model.get("max_position_embeddings")
    return SparseModelConfig(
        name=_vector_name(folder),
        kind="splade",
        hf_model_id=str(folder),
        max_tokens=min(512, window) if _is_count(window) else 512,
        licence="see the folder",
    )


def choose_rerank(value: str) -> RerankingConfig:
    """Return the CrossEncoder of a registry key or of a local folder.

    Raises:
        UnknownModel: neither, naming the keys that exist and the nearest.
        ModelError: the folder does not describe a model.
    """
    known = catalogue.RERANKING_MODELS
    if value in known:
        return known[value]
    folder = _model_folder(value, "rerank", known)
    if (folder / _DIFFERENCE).is_file():
        return describe_difference_folder(folder)
    window = _read(folder / "config.json").get("max_position_embeddings")
    return RerankingConfig(
        name=_vector_name(folder),
        hf_model_id=str(folder),
        max_tokens=min(512, window) if _is_count(window) else 512,
        licence="see the folder",
    )


def describe_difference_folder(folder: Path) -> RerankingConfig:
    """Return the reranker that a folder with a weight difference states.

    Raises:
        ModelError: its card lacks something or states nonsense.
    """
    card = _read(folder / "config.json")
    try:
        return RerankingConfig(
            name=_vector_name(folder),
            hf_model_id=str(card["base_model"]),
            max_tokens=int(card["max_tokens"]),
            blend=BlendConfig.parse(card["blend"]) if card.get("blend") else None,
            licence="see the folder",
            package=card.get("base_package"),
            weights_sha256=str(card["base_sha256"]),
            difference=str(folder),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise ModelError(
            f"{folder / 'config.json'} is no card of a weight difference: {error}.",
            cure="Give a folder that training wrote.",
        ) from error


def unknown_model(
    kind: str, value: str, known: Iterable[str], *, folders: bool
) -> UnknownModel:
    """Return the error for a key that is in no registry, with the nearest known."""
    keys = sorted(known)
    by_folded = {key.casefold(): key for key in keys}
    near = difflib.get_close_matches(value.casefold(), list(by_folded), n=1)
    hint = f"Did you mean '{by_folded[near[0]]}'? " if near else ""
    nor = ", nor is it a folder" if folders else ""
    return UnknownModel(
        f"No {kind + ' ' if kind else ''}model is called '{value}'{nor}.",
        cure=f"{hint}Known: {', '.join(keys)}.",
    )


def describe_dense_folder(folder: Path) -> ModelConfig:
    """Return the configuration that a dense model's own files state.

    Raises:
        ModelError: without a width or a window in them.
    """
    model = _read(folder / "config.json")
    sentence = _read(folder / "sentence_bert_config.json", optional=True)
    width = model.get("hidden_size")
    window = sentence.get("max_seq_length") or model.get("max_position_embeddings")
    if not _is_count(width) or not _is_count(window):
        raise ModelError(
            f"{folder / 'config.json'} names no hidden_size or no window "
            "(max_position_embeddings).",
            cure="Give the folder of an embedding model in Hugging Face layout.",
        )
    prompts = _read(folder / "config_sentence_transformers.json", optional=True).get(
        "prompts"
    )
    prompts = prompts if isinstance(prompts, dict) else {}
    return ModelConfig(
        name=_vector_name(folder),
        hf_model_id=str(folder),
        vector_dim=width,
        max_tokens=window,
        query_prefix=str(prompts.get("query") or ""),
        document_prefix=str(prompts.get("document") or ""),
        pooling=_pooling(folder),
        licence="see the folder",
    )


def _pooling(folder: Path) -> Pooling:
    modes = _read(folder / "1_Pooling" / "config.json", optional=True)
    for key, pooling in _POOLING:
        if modes.get(key) is True:
            return pooling
    return "mean"


def _model_folder(value: str, kind: str, known: Iterable[str]) -> Path:
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise unknown_model(kind, value, known, folders=True)
    return folder.resolve()


def _vector_name(folder: Path) -> str:
    name = folder.name
    if not _VECTOR_NAME.fullmatch(name):
        raise ModelError(
            f"The model folder '{name}' cannot name a vector and its files.",
            cure="Rename it: letters, digits, dots, hyphens and underscores.",
        )
    return name


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _read(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Cannot read {path}: {type(error).__name__}.",
            cure="Give the folder of a model in Hugging Face layout.",
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object.")
    return content
