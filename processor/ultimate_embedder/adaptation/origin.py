"""The bundle's own reranker, and the one that training starts from."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import RerankingConfig
from ..encoders.cross_encoder import TorchCrossEncoder
from ..errors import ModelNotAvailable
from ..export.manifest_sections import RerankRan
from ..models.catalogue import rerank_model
from ..search.loading import rerank_config
from ..search.parts import Parts
from .base import Base, find_base

RESIDUAL = "residual-minilm-l6"


@dataclass(frozen=True, slots=True)
class Origin:
    """What there is before training.

    `reranker` and `scorer` are the bundle's, None where it has none or its model is
    not here. Training starts from `config`, whose weights are `base`.
    """

    reranker: RerankingConfig | None
    scorer: TorchCrossEncoder | None
    config: RerankingConfig
    base: Base

    @property
    def name(self) -> str:
        """What training starts from, in words."""
        return self.config.name if self.base.start.tensors else "its base"


def find_origin(
    parts: Parts, *, offline: bool, config: RerankingConfig | None = None
) -> Origin:
    """Return where training on a bundle starts.

    Without a `config` that is the bundle's reranker if it is a difference of weights,
    else the one that is shipped, and its base where the difference is missing.

    Raises:
        ModelNotAvailable: the base is not on this machine.
    """
    reranker, scorer = _bundles_own(parts, offline)
    if config is None:
        adapted = reranker is not None and reranker.difference is not None
        config = reranker if adapted and reranker else rerank_model(RESIDUAL)
    try:
        base = find_base(config, offline=offline)
    except ModelNotAvailable:
        base = find_base(config, offline=offline, anew=True)
    return Origin(reranker, scorer, config, base)


def _bundles_own(
    parts: Parts, offline: bool
) -> tuple[RerankingConfig, TorchCrossEncoder] | tuple[None, None]:
    """Return the reranker that the manifest names, if it can be had.

    Where it cannot, the report names no reranker, and fusion is what there is to beat.
    """
    if not isinstance(parts.manifest.rerank_run, RerankRan):
        return None, None
    try:
        reranker = rerank_config(parts.manifest.rerank_run)
        return reranker, TorchCrossEncoder.load(reranker, offline=offline)
    except ModelNotAvailable:
        return None, None
