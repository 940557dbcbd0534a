"""From what was typed to the files that a model is loaded from, without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import ModelConfig, RerankingConfig, SparseModelConfig
from ..encoders.hub import Hub, is_hub_id
from ..encoders.sources import ModelLocation, locate_model
from ..errors import UsageError
from . import catalogue
from .choice import choose_dense, choose_rerank, choose_sparse, unknown_model
from .facts import read_facts

Kind = Literal["dense", "sparse", "rerank"]
Known = ModelConfig | SparseModelConfig | RerankingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNeed:
    """Files that a model is loaded from."""

    model: str
    revision: str | None = None
    package: str | None = None
    weights_sha256: str | None = None
    backend: str = "pytorch"
    trust_remote_code: bool = False

    def locate(
        self, *, offline: bool, hub: Hub, at: str | None = None
    ) -> ModelLocation:
        """Return where they are, at the revision `at` if one is named.

        Raises:
            ModelError: they are not here and cannot be had.
        """
        return locate_model(
            self.model,
            revision=at or self.revision,
            package=self.package,
            offline=offline,
            weights_sha256=self.weights_sha256,
            backend=self.backend,
            trust_remote_code=self.trust_remote_code,
            hub=hub,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model that was asked about: `key` is what was typed, a hub id has no config."""

    key: str
    kind: Kind | None
    config: Known | None
    files: FileNeed | None  # None: it has none

    @property
    def window(self) -> int | None:
        """The most tokens of a text, or of a query with a document; None: any."""
        return self.config.max_tokens if self.config and self.files else None


def entries(
    keys: Sequence[str], profile: str | None = None, trusted: Sequence[str] = ()
) -> tuple[Entry, ...]:
    """Return what keys, hub ids and a profile stand for, each once.

    Raises:
        UsageError: nothing is named, or a name stands for nothing.
    """
    asked = list(keys)
    if profile is not None:
        roster = catalogue.profile(profile)
        asked += [*roster.dense, *roster.sparse, roster.rerank]
    if not asked:
        raise UsageError("No model is named.", cure="Name keys, or --profile NAME.")
    return tuple(_entry(key, key in trusted) for key in dict.fromkeys(asked))


def all_entries() -> tuple[Entry, ...]:
    """Return the whole registry."""
    return entries(
        [
            *catalogue.KAGGLE_OPTIMIZED_MODELS,
            *catalogue.SPARSE_MODELS,
            *catalogue.RERANKING_MODELS,
        ]
    )


def described(entry: Entry) -> tuple[Kind, Known]:
    """Return what the registry says of a model, or else its own small files.

    The files are those in its folder or in the cache. The kind follows from the class
    that was saved: a masked language model is sparse, a classifier reranks.

    Raises:
        ModelError: the files are not here, or describe no model that works.
    """
    if entry.kind is not None and entry.config is not None:
        return entry.kind, entry.config
    if entry.files is None:
        raise ValueError(f"{entry.key} has neither a configuration nor files")
    location = locate_model(
        entry.files.model,
        revision=entry.files.revision,
        offline=True,
        trust_remote_code=entry.files.trust_remote_code,
    )
    saved = " ".join(read_facts(location.path).architectures)
    if "ForMaskedLM" in saved:
        return "sparse", choose_sparse(entry.key)
    if "ForSequenceClassification" in saved:
        return "rerank", choose_rerank(entry.key)
    return "dense", choose_dense(entry.key)


def _entry(typed: str, trusted: bool) -> Entry:
    key, _, revision = typed.partition("@")
    dense = catalogue.KAGGLE_OPTIMIZED_MODELS.get(key)
    sparse = catalogue.SPARSE_MODELS.get(key)
    rerank = catalogue.RERANKING_MODELS.get(key)
    kind: Kind = "dense" if dense else "sparse" if sparse else "rerank"
    config = dense or sparse or rerank
    if config is not None:
        need = _need(config, revision or None, trusted)
        return Entry(key=typed, kind=kind, config=config, files=need)
    if Path(typed).expanduser().is_dir():
        folder = str(Path(typed).expanduser().resolve())
        need = FileNeed(model=folder, trust_remote_code=trusted)
        return Entry(key=typed, kind=None, config=None, files=need)
    if not is_hub_id(key):
        known = [entry for registry in _registries() for entry in registry]
        raise unknown_model("", typed, known, others=True)
    need = FileNeed(model=key, revision=revision or None, trust_remote_code=trusted)
    return Entry(key=typed, kind=None, config=None, files=need)


def _registries() -> tuple[Sequence[str], ...]:
    return (
        tuple(catalogue.KAGGLE_OPTIMIZED_MODELS),
        tuple(catalogue.SPARSE_MODELS),
        tuple(catalogue.RERANKING_MODELS),
    )


def _need(config: Known, revision: str | None, trusted: bool) -> FileNeed | None:
    if isinstance(config, SparseModelConfig):
        if config.kind == "attention" and config.dense_key:
            return _need(catalogue.dense_model(config.dense_key), revision, trusted)
        if config.kind != "splade":
            return None
    package = None if isinstance(config, SparseModelConfig) else config.package
    sha256 = None if isinstance(config, SparseModelConfig) else config.weights_sha256
    return FileNeed(
        model=config.hf_model_id,
        revision=revision or config.revision,
        package=package,
        weights_sha256=sha256,
        backend=config.backend if isinstance(config, ModelConfig) else "pytorch",
        trust_remote_code=trusted or config.trust_remote_code,
    )
