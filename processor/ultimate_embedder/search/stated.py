"""What a manifest alone says of a bundle's stages, where its files are not at hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import RERANK_CANDIDATES, RerankingConfig
from ..export.manifest import Manifest
from ..retrieval.blend import BlendConfig
from ..retrieval.fusion import FusionConfig
from .parts import (
    fused_legs,
    fused_sparse_run,
    primary_key,
    stated_blend,
    stated_candidates,
    stated_fusion,
    why_no_rerank,
    why_no_sparse,
)
from .results import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """The models in their parts; `missing` says why a stage cannot run.

    `candidates` is how many of a fused ranking the reranker reads, `blend` how its
    logits join the fused scores (None: they stand alone).
    """

    primary: str | None
    fused_sparse: str | None
    fusion: FusionConfig
    fused_legs: tuple[Stage, ...]
    blend: BlendConfig | None = None
    candidates: int = RERANK_CANDIDATES
    missing: dict[Stage, str] = field(default_factory=dict)

    def with_choices(
        self, fusion: FusionConfig | None, rerank: RerankingConfig | None
    ) -> Stated:
        """Return the same with another fusion or reranker than the manifest's.

        Raises:
            UsageError: the fusion has weights for another number of rankings.
        """
        chosen = self
        if fusion is not None:
            fusion.weights_for(len(self.fused_legs))
            chosen = replace(chosen, fusion=fusion)
        if rerank is not None:
            others: dict[Stage, str] = {
                stage: why for stage, why in self.missing.items() if stage != "reranked"
            }
            chosen = replace(
                chosen,
                blend=rerank.blend,
                candidates=rerank.candidates,
                missing=others,
            )
        return chosen


def stated(manifest: Manifest) -> Stated:
    """Return the stages of a bundle, of which all points are taken to be there."""
    missing: dict[Stage, str] = {}
    sparse = fused_sparse_run(manifest)
    if sparse is None:
        missing["sparse"] = why_no_sparse(manifest)
    legs = fused_legs(manifest, missing)
    why = why_no_rerank(manifest, has_texts=True)
    if why:
        missing["reranked"] = why
    return Stated(
        primary=primary_key(manifest, Path()) if manifest.dense_run else None,
        fused_sparse=sparse.sparse_model if sparse else None,
        fusion=stated_fusion(manifest),
        fused_legs=legs,
        blend=None if why else stated_blend(manifest, missing),
        candidates=stated_candidates(manifest),
        missing=missing,
    )
