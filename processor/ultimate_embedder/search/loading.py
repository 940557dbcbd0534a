"""The models a bundle was built with, loaded when a query first needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..config import ModelConfig, RerankingConfig, SparseModelConfig
from ..encoders.hub import is_hub_id
from ..encoders.pair_batches import score_pairs
from ..encoders.protocols import SparseEncoder
from ..encoders.sparse_queries import query_encoder
from ..encoders.splade_source import SpladeSource, find_splade
from ..encoders.texts import TextEncoder
from ..errors import ModelNotAvailable
from ..export.manifest import Manifest
from ..export.manifest_sections import DenseRun, RerankRan
from ..models.catalogue import (
    KAGGLE_OPTIMIZED_MODELS,
    RERANKING_MODELS,
    SPARSE_MODELS,
)
from ..models.choice import choose_rerank, choose_sparse
from ..models.lock import is_commit
from ..models.manager import ModelManager
from ..records import Float32Array, SparseInferenceRun, SparseVector
from .parts import fused_sparse_run

T = TypeVar("T")

_Dense = Callable[[str], Float32Array]
_Rerank = Callable[[str, Sequence[str]], Float32Array]


@dataclass(frozen=True, slots=True)
class _Models(Generic[T]):
    """What is loaded of one kind, by name; the lock is held while one computes."""

    loaded: dict[str, T] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class ManifestEncoders:
    """Satisfies `QueryEncoders` with the models that a manifest names.

    Each model is loaded once and used by one thread at a time, models of several kinds
    side by side: a query does not wait for another one's reranking. A model is loaded
    while none of the others computes, since transformers sets torch's default
    precision meanwhile. `close` frees them.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        offline: bool = False,
        device: str = "cpu",
        rerank: RerankingConfig | None = None,
    ) -> None:
        """Take the manifest; `rerank` stands in for the reranker that it names."""
        self._manifest = manifest
        self._manager = ModelManager(offline=offline)
        self._device = device
        self._held = ExitStack()
        self._dense: _Models[_Dense] = _Models()
        self._sparse: _Models[SparseEncoder] = _Models()
        self._rerank: _Models[_Rerank] = _Models()
        self._rerank_config = rerank

    def dense(self, text: str, key: str | None = None) -> Float32Array:
        """Return the vector of a query for a model, the primary one: float32 [dim]."""
        run = self._dense_run(key)
        with self._using(self._dense, run.model, lambda: self._load_dense(run)) as one:
            return one(text)

    def sparse(self, text: str, key: str | None = None) -> SparseVector:
        """Return the vector of a query for a sparse model, the one in the fusion."""
        run = self._sparse_run(key)
        with self._using(
            self._sparse, run.sparse_model, lambda: self._load_sparse(run)
        ) as one:
            return one.encode_query(text)

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        """Return the relevance of each document: float32 [documents]."""
        with self._using(self._rerank, "", self._load_rerank) as one:
            return one(text, documents)

    def close(self) -> None:
        """Free the models."""
        with self._none_computes():
            for models in (self._dense, self._sparse, self._rerank):
                models.loaded.clear()
            self._held.close()

    @contextmanager
    def _using(
        self, models: _Models[T], name: str, load: Callable[[], T]
    ) -> Iterator[T]:
        """Give a model, loaded if it is not there, to this thread alone."""
        while True:
            with models.lock:
                if name in models.loaded:
                    yield models.loaded[name]
                    return
            with self._none_computes():
                if name not in models.loaded:
                    models.loaded[name] = load()

    @contextmanager
    def _none_computes(self) -> Iterator[None]:
        """Hold every lock, taken in one order."""
        with self._dense.lock, self._sparse.lock, self._rerank.lock:
            yield

    def _dense_run(self, key: str | None) -> DenseRun:
        for run in self._manifest.dense_run or ():
            if key in (None, run.model):
                return run
        raise ModelNotAvailable(
            "The manifest does not say which dense model made this bundle."
            if key is None
            else f"The manifest names no dense model {key}.",
            cure="Build the bundle anew.",
        )

    def _sparse_run(self, key: str | None) -> SparseInferenceRun:
        runs = {run.sparse_model: run for run in self._manifest.sparse_run or ()}
        run = fused_sparse_run(self._manifest) if key is None else runs.get(key)
        if run is None:
            named = "" if key is None else f" of {key}"
            raise ModelNotAvailable(f"This bundle holds no sparse vectors{named}.")
        return run

    def _load_dense(self, run: DenseRun) -> _Dense:
        config = dense_config(run)
        tokenizer = self._manager.tokenizer(config)
        encoder = self._held.enter_context(
            self._manager.resident(config, device=self._device)
        )

        texts = TextEncoder(encoder, tokenizer, config.max_tokens, run.long_texts)

        def encode(text: str) -> Float32Array:
            vector: Float32Array = texts.vectors([text], "query")[0]
            return vector

        return encode

    def _load_sparse(self, run: SparseInferenceRun) -> SparseEncoder:
        if run.statistics.get("kind") == "splade":
            return query_encoder(run, self._splade(run))
        model = SPARSE_MODELS.get(run.sparse_model)
        shared = model.dense_key if model else None
        if shared is None or run.fallback_used:
            return query_encoder(run)
        path = self._manager.locate(KAGGLE_OPTIMIZED_MODELS[shared]).path
        return query_encoder(run, path)

    def _splade(self, run: SparseInferenceRun) -> SpladeSource:
        return find_splade(
            sparse_config(run, offline=self._manager.offline),
            offline=self._manager.offline,
            long_texts=run.statistics.get("long_texts", "windows"),
        )

    def _load_rerank(self) -> _Rerank:
        run = self._manifest.rerank_run
        config = self._rerank_config
        if config is None and isinstance(run, RerankRan):
            config = rerank_config(run, offline=self._manager.offline)
        if config is None:
            raise ModelNotAvailable("This bundle names no reranker.")
        from ..encoders.cross_encoder import TorchCrossEncoder

        scorer = TorchCrossEncoder.load(
            config, device=self._device, offline=self._manager.offline
        )

        def rerank(text: str, documents: Sequence[str]) -> Float32Array:
            pairs = [(text, document) for document in documents]
            return score_pairs(scorer, pairs, config.batch_cap)

        return rerank


def dense_config(run: DenseRun) -> ModelConfig:
    """Return the model as it was when the bundle was built.

    What the manifest does not hold (the package with the weights) comes from the
    registry.
    """
    known = KAGGLE_OPTIMIZED_MODELS.get(run.model)
    if known is None or known.hf_model_id != run.hf_model_id:
        return ModelConfig(
            name=run.model,
            hf_model_id=run.hf_model_id,
            vector_dim=run.dimension,
            max_tokens=run.max_tokens,
            query_prefix=run.query_prefix,
            document_prefix=run.document_prefix,
            pooling=run.statistics.get("pooling", "mean"),
            revision=_commit(run.revision),
        )
    return replace(
        known,
        revision=_commit(run.revision) or known.revision,
        max_tokens=run.max_tokens,
        query_prefix=run.query_prefix,
        document_prefix=run.document_prefix,
    )


def sparse_config(
    run: SparseInferenceRun, *, offline: bool = True
) -> SparseModelConfig:
    """Return the SPLADE model by its key, or by the folder or hub id it came from.

    Raises:
        ModelNotAvailable: the key is in no registry and its folder is not here.
    """
    folder = str(run.statistics.get("hf_model_id", ""))
    known = SPARSE_MODELS.get(run.sparse_model)
    if known is None or folder not in ("", known.hf_model_id):
        if not Path(folder).is_dir() and not is_hub_id(folder):
            raise ModelNotAvailable(
                f"The sparse model {run.sparse_model} is in no registry, and its "
                "folder is not here.",
                cure="Search with another stage, or build the bundle anew.",
            )
        known = choose_sparse(_at_commit(folder, run.statistics), offline=offline)
    return replace(
        known,
        name=run.sparse_model,
        max_tokens=run.statistics.get("max_tokens", known.max_tokens),
        revision=_commit(run.statistics.get("revision")) or known.revision,
    )


def rerank_config(run: RerankRan, *, offline: bool = True) -> RerankingConfig:
    """Return the reranker by its key, or by the folder or hub id it came from.

    Raises:
        ModelNotAvailable: the key is in no registry and its folder is not here.
    """
    commit = _commit(run.statistics.get("revision"))
    if run.model in RERANKING_MODELS:
        known = RERANKING_MODELS[run.model]
        return replace(known, revision=commit or known.revision)
    folder = run.statistics.get("difference") or run.statistics.get("hf_model_id")
    if not isinstance(folder, str) or not (Path(folder).is_dir() or is_hub_id(folder)):
        raise ModelNotAvailable(
            f"The reranker {run.model} is in no registry, and its folder is not here.",
            cure="Search with another stage, or build the bundle anew.",
        )
    return choose_rerank(_at_commit(folder, run.statistics), offline=offline)


def _at_commit(name: str, statistics: Mapping[str, Any]) -> str:
    """Return a hub id with the commit that a bundle was built with; a folder as is."""
    commit = _commit(statistics.get("revision"))
    return f"{name}@{commit}" if commit and not Path(name).is_dir() else name


def _commit(revision: object) -> str | None:
    """Return what a manifest says of a revision, if it is a commit of the hub."""
    return revision if isinstance(revision, str) and is_commit(revision) else None
