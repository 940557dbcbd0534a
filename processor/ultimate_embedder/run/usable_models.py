"""The roster that a run can use: every model found, or fetched, before work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from ..config import ModelConfig, PipelineConfig, RerankingConfig, SparseModelConfig
from ..encoders.sources import ModelLocation, locate_model
from ..encoders.splade_source import find_splade
from ..errors import ModelError
from ..models.catalogue import KAGGLE_OPTIMIZED_MODELS, RERANKING_MODELS, SPARSE_MODELS
from ..models.facts import stated_pooling
from ..models.manager import ModelSource

_Model = TypeVar("_Model", ModelConfig, SparseModelConfig)
Warn = Callable[[str], None]


def usable_models(
    config: PipelineConfig, models: ModelSource, warn: Warn, *, reranker: bool = True
) -> PipelineConfig:
    """Return the configuration with the models that are there.

    Companions that cannot be had are left out where the settings allow it. `warn` is
    told of them, and of models whose commit nothing pins. `reranker`: look for its
    files too; where they cannot be had its stage says so.

    Raises:
        ModelError: a model cannot be had, and may not be left out.
    """

    def dense(model: ModelConfig) -> ModelLocation:
        location = models.locate(model)
        models.tokenizer(model)
        _tell_of_pooling(model, location, warn)
        return location

    def sparse(model: SparseModelConfig) -> ModelLocation | None:
        """Look for a model's own weights; others share those of a dense model."""
        if model.kind != "splade" or not config.enable_sparse:
            return None
        return find_splade(model, offline=config.offline).location

    may_skip = config.skip_failed_models
    primary = config.primary
    return replace(
        config,
        dense=_usable(config.dense, dense, warn, lambda m: may_skip and m != primary),
        sparse=_usable(config.sparse, sparse, warn, lambda _: may_skip),
        rerank=_reranker(config, warn) if reranker else config.rerank,
    )


def _usable(
    models: Iterable[_Model],
    find: Callable[[_Model], ModelLocation | None],
    warn: Warn,
    may_skip: Callable[[_Model], bool],
) -> tuple[_Model, ...]:
    usable = []
    for model in models:
        try:
            location = find(model)
        except ModelError as error:
            if not may_skip(model):
                raise
            warn(f"Model {model.name} is skipped: {error}")
            continue
        usable.append(model)
        if location is not None:
            _tell_of_pin(model, location, warn)
    return tuple(usable)


def _reranker(config: PipelineConfig, warn: Warn) -> RerankingConfig | None:
    """Return the reranker at the commit that is here: fetched now, not after hours."""
    model = config.active_rerank
    if model is None or model.difference is not None or model.listwise:
        return config.rerank
    try:
        location = locate_model(
            model.hf_model_id,
            revision=model.revision,
            package=model.package,
            offline=config.offline,
            trust_remote_code=model.trust_remote_code,
        )
    except ModelError:
        return model  # the stage meets the same, and records it with its cure
    if location.origin not in ("cache", "hub"):
        return model
    _tell_of_pin(model, location, warn)
    return replace(model, revision=location.revision)


def _tell_of_pooling(model: ModelConfig, location: ModelLocation, warn: Warn) -> None:
    known = {one.hf_model_id for one in KAGGLE_OPTIMIZED_MODELS.values()}
    if model.name in KAGGLE_OPTIMIZED_MODELS or model.hf_model_id in known:
        return
    if stated_pooling(location.path) is None:
        warn(
            f"Model {model.name} does not say how its states are pooled: "
            f"{model.pooling} was taken. If it was trained with another, say so in "
            f"{location.path / '1_Pooling' / 'config.json'}."
        )


def _tell_of_pin(
    model: ModelConfig | SparseModelConfig | RerankingConfig,
    location: ModelLocation,
    warn: Warn,
) -> None:
    if location.pinned:
        return
    known = {*KAGGLE_OPTIMIZED_MODELS, *SPARSE_MODELS, *RERANKING_MODELS}
    at = f"@{model.revision}" if model.revision else ""
    named = model.name if model.name in known else f"{model.hf_model_id}{at}"
    warn(
        f"Model {model.name} is pinned to no commit: {location.revision} was taken. "
        f"'models fetch {named}' pins it for later runs."
    )
