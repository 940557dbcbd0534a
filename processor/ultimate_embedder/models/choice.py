"""From what an operator typed to a model's configuration.

A key of the registry, a local folder, or the id of a model on the hub, `org/name`; a
revision may follow: `org/name@REVISION`. What the registry does not know is described
by the model's own files, see `facts`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ..config import (
    RERANK_CANDIDATES,
    RERANK_TOP_K,
    ModelConfig,
    RerankingConfig,
    SparseModelConfig,
)
from ..encoders.hub import Hub, is_hub_id
from ..encoders.sources import locate_model
from ..errors import ModelError, UnknownModel, UsageError
from ..retrieval.blend import BlendConfig
from . import catalogue
from .facts import is_count, read_facts, read_json

_Model = TypeVar("_Model", ModelConfig, SparseModelConfig, RerankingConfig)

_VECTOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIFFERENCE = "difference.safetensors"
_PAIR_WINDOW = 512  # what rerankers and SPLADE models are trained with, and no more


def choose_dense(
    value: str, *, offline: bool = True, trusted: bool = False, hub: Hub | None = None
) -> ModelConfig:
    """Return the dense model of a registry key, a local folder or a hub id.

    The small files of a hub id come from the cache or, unless `offline`, from the hub.
    `trusted`: it may bring code of its own.

    Raises:
        UnknownModel: none of these, naming the keys that exist and the nearest.
        ModelNotAvailable: the hub's files are not here and cannot be fetched.
        ModelError: the files do not describe a model, or it needs code of its own.
    """
    asked = _Asked.of(value, "dense", catalogue.KAGGLE_OPTIMIZED_MODELS)
    if asked.known:
        return asked.registered(catalogue.KAGGLE_OPTIMIZED_MODELS, trusted)
    found = describe_dense_folder(asked.folder(offline, trusted, hub))
    return asked.named(found, trusted)


def choose_sparse(
    value: str, *, offline: bool = True, trusted: bool = False, hub: Hub | None = None
) -> SparseModelConfig:
    """Return the sparse model of a registry key, or of a SPLADE folder or hub id.

    Raises:
        UnknownModel: none of these, naming the keys that exist and the nearest.
        ModelNotAvailable: the hub's files are not here and cannot be fetched.
        ModelError: the files hold no masked language model.
    """
    asked = _Asked.of(value, "sparse", catalogue.SPARSE_MODELS)
    if asked.known:
        return asked.registered(catalogue.SPARSE_MODELS, trusted)
    found = describe_splade_folder(asked.folder(offline, trusted, hub))
    return asked.named(found, trusted)


def choose_rerank(
    value: str, *, offline: bool = True, trusted: bool = False, hub: Hub | None = None
) -> RerankingConfig:
    """Return the CrossEncoder of a registry key, a local folder or a hub id.

    Raises:
        UnknownModel: none of these, naming the keys that exist and the nearest.
        ModelNotAvailable: the hub's files are not here and cannot be fetched.
        ModelError: the files do not describe a model.
    """
    asked = _Asked.of(value, "rerank", catalogue.RERANKING_MODELS)
    if asked.known:
        return asked.registered(catalogue.RERANKING_MODELS, trusted)
    folder = asked.folder(offline, trusted, hub)
    if (folder / _DIFFERENCE).is_file():
        return describe_difference_folder(folder)
    return asked.named(describe_rerank_folder(folder, pairs=asked.hub_id), trusted)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was typed: a registry's key, a folder, or a hub id, and a revision."""

    value: str
    revision: str | None
    known: bool
    hub_id: bool

    @classmethod
    def of(cls, value: str, kind: str, registry: Mapping[str, _Model]) -> _Asked:
        """Tell which of the three it is.

        Raises:
            UnknownModel: none of them.
        """
        if value in registry:
            return cls(value, None, known=True, hub_id=False)
        if Path(value).expanduser().is_dir():
            return cls(value, None, known=False, hub_id=False)
        name, _, revision = value.partition("@")
        by_id = {model.hf_model_id: model.name for model in registry.values()}
        key = name if name in registry else by_id.get(name)
        if key is not None:
            return cls(key, revision or None, known=True, hub_id=False)
        if is_hub_id(name):
            return cls(name, revision or None, known=False, hub_id=True)
        raise unknown_model(kind, value, registry, others=True)

    def registered(self, registry: Mapping[str, _Model], trusted: bool) -> _Model:
        """Return the registry's entry, at the revision that was asked for."""
        found = registry[self.value]
        if self.revision:
            found = replace(found, revision=self.revision)
        return replace(found, trust_remote_code=True) if trusted else found

    def folder(self, offline: bool, trusted: bool, hub: Hub | None) -> Path:
        """Return a folder with the small files, fetching them if that is allowed."""
        if not self.hub_id:
            return Path(self.value).expanduser().resolve()
        return locate_model(
            self.value,
            revision=self.revision,
            offline=offline,
            trust_remote_code=trusted,
            part="facts",
            hub=hub,
        ).path

    def named(self, found: _Model, trusted: bool) -> _Model:
        """Return a description under the name that was typed.

        A hub id's name is its last part, or all of it where the registry has that.
        """
        found = replace(found, trust_remote_code=trusted)
        if not self.hub_id:
            return replace(found, name=_vector_name(Path(found.hf_model_id)))
        short = self.value.partition("/")[2]
        name = self.value.replace("/", "--") if short in _taken() else short
        return replace(
            found,
            name=name,
            hf_model_id=self.value,
            revision=self.revision,
            licence="see the model's page",
        )


def _taken() -> set[str]:
    return {
        *catalogue.KAGGLE_OPTIMIZED_MODELS,
        *catalogue.SPARSE_MODELS,
        *catalogue.RERANKING_MODELS,
    }


def describe_splade_folder(folder: Path) -> SparseModelConfig:
    """Return the SPLADE model that a masked language model's own files state.

    Raises:
        ModelError: its `architectures` name no masked language model.
    """
    facts = read_facts(folder)
    if not any(name.endswith("ForMaskedLM") for name in facts.architectures):
        raise ModelError(
            f"{folder / 'config.json'} names no masked language model.",
            cure="Give the folder of a SPLADE model in Hugging Face layout.",
        )
    return SparseModelConfig(
        name=folder.name,
        kind="splade",
        hf_model_id=str(folder),
        max_tokens=min(_PAIR_WINDOW, facts.window or _PAIR_WINDOW),
        licence="see the folder",
    )


def describe_rerank_folder(folder: Path, *, pairs: bool = False) -> RerankingConfig:
    """Return the CrossEncoder that a model's own files state.

    `pairs`: require that they name a classifier with one output, as of a hub id, of
    which nothing else is known.

    Raises:
        ModelError: they do not.
    """
    facts = read_facts(folder)
    classifies = any("ForSequenceClass" in name for name in facts.architectures)
    if pairs and not (classifies and facts.outputs == 1):  # unsaid, it is two
        raise ModelError(
            f"{folder / 'config.json'} names no classifier with one output.",
            cure="Choose a CrossEncoder: ...ForSequenceClassification with one label.",
        )
    return RerankingConfig(
        name=folder.name,
        hf_model_id=str(folder),
        max_tokens=min(_PAIR_WINDOW, facts.window or _PAIR_WINDOW),
        licence="see the folder",
    )


def describe_difference_folder(folder: Path) -> RerankingConfig:
    """Return the reranker that a folder with a weight difference states.

    Raises:
        ModelError: its card lacks something or states nonsense.
    """
    card = read_json(folder / "config.json")
    try:
        candidates = int(card.get("candidates") or RERANK_CANDIDATES)
        return RerankingConfig(
            name=_vector_name(folder),
            hf_model_id=str(card["base_model"]),
            max_tokens=int(card["max_tokens"]),
            candidates=candidates,
            top_k=min(RERANK_TOP_K, candidates),
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
    kind: str, value: str, known: Iterable[str], *, others: bool
) -> UnknownModel:
    """Return the error for a key that is in no registry, with the nearest known.

    `others`: folders and hub ids would have done too.
    """
    keys = sorted(known)
    by_folded = {key.casefold(): key for key in keys}
    near = difflib.get_close_matches(value.casefold(), list(by_folded), n=1)
    hint = f"Did you mean '{by_folded[near[0]]}'? " if near else ""
    nor = ", nor is it a folder or an ORG/NAME of the hub" if others else ""
    return UnknownModel(
        f"No {kind + ' ' if kind else ''}model is called '{value}'{nor}.",
        cure=f"{hint}Known: {', '.join(keys)}.",
    )


def describe_dense_folder(folder: Path) -> ModelConfig:
    """Return the configuration that a dense model's own files state.

    Raises:
        ModelError: without a width or a window in them.
    """
    facts = read_facts(folder)
    if not is_count(facts.width) or not is_count(facts.window):
        raise ModelError(
            f"{folder / 'config.json'} names no hidden_size or no window "
            "(max_position_embeddings).",
            cure="Give an embedding model in Hugging Face layout.",
        )
    return ModelConfig(
        name=folder.name,
        hf_model_id=str(folder),
        vector_dim=facts.width,
        max_tokens=facts.window,
        query_prefix=facts.query_prompt,
        document_prefix=facts.document_prompt,
        pooling=facts.pooling or "mean",
        licence="see the folder",
    )


def _vector_name(folder: Path) -> str:
    name = folder.name
    if not _VECTOR_NAME.fullmatch(name):
        raise ModelError(
            f"The model folder '{name}' cannot name a vector and its files.",
            cure="Rename it: letters, digits, dots, hyphens and underscores.",
        )
    return name
