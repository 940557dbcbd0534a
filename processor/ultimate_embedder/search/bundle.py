"""A bundle that answers questions: opened at once, read through memory maps.

with open_bundle(Path("Embeddings/my_docs")) as bundle:
    for hit in bundle.search("how do I filter?", filters={"source_subdir": "api"}):
        print(hit.score, hit.chunk_id)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..config import RerankingConfig
from ..errors import BundleError, ModelNotAvailable, UsageError
from ..export.layout import repair_cure
from ..export.manifest import Manifest
from ..hardware import this_machine
from ..records import Float32Array, RankedList, SparseVector
from ..retrieval.blend import blend
from ..retrieval.fusion import FusionConfig, fuse
from ..retrieval.ranking import cut_to, followed_by
from .chunk_rows import ChunkRows
from .depth import fusion_depth
from .legs import DenseLeg, SparseLeg, StageRankings, open_legs
from .masks import RowMasks
from .parts import Parts, of_one_bundle, open_parts
from .query_encoders import QueryEncoders
from .results import FUSED, STAGES, Hit, SearchResults, Stage

_CHEAP: tuple[Stage, ...] = ("dense", "sparse", "fused")


def open_bundle(
    path: Path,
    encoders: QueryEncoders | None = None,
    *,
    offline: bool = False,
    fusion: FusionConfig | None = None,
    rerank: RerankingConfig | None = None,
) -> Bundle:
    """Open the bundle in a folder; its models are loaded when a query needs them.

    `fusion` and `rerank` stand in for those that the manifest names.

    Raises:
        BundleError: it is no bundle, or its parts do not fit together.
        UsageError: `fusion` has weights for another number of rankings.
    """
    parts = open_parts(Path(path)).with_choices(fusion, rerank)
    if encoders is None:
        from .loading import ManifestEncoders

        encoders = ManifestEncoders(parts.manifest, offline=offline, rerank=rerank)
    return Bundle(parts, encoders)


class Bundle:
    """An open bundle. Threads may search it at the same time."""

    def __init__(self, parts: Parts, encoders: QueryEncoders) -> None:
        self._parts = parts
        self._encoders = encoders
        self._legs: tuple[DenseLeg | SparseLeg, ...] | None = None
        self._masks = RowMasks(parts, lambda row: self._payload(row)[1])
        self._rows = ChunkRows(parts.ids)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._parts.manifest.chunk_count

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self._parts.manifest

    @property
    def missing(self) -> Mapping[Stage, str]:
        """Stages that cannot run on this bundle, and why."""
        return dict(self._parts.missing)

    @property
    def stages(self) -> Mapping[Stage, str]:
        """Stages that can run, and with what: a model's key, or how is fused."""
        parts = self._parts
        found: dict[Stage, str | None] = {
            "dense": parts.primary,
            "sparse": parts.fused_sparse,
            "fused": str(self.fusion),
            "reranked": parts.reranker,
        }
        return {
            stage: name
            for stage, name in found.items()
            if name and stage not in parts.missing
        }

    @property
    def fusion(self) -> FusionConfig:
        """How rankings are joined: as the manifest names it, or as was asked for."""
        return self._parts.fusion_of(len(self._parts.fused_legs))

    @property
    def rerank_candidates(self) -> int:
        """How many of a fused ranking the reranker reads."""
        return self._parts.candidates

    def close(self) -> None:
        """Let go of the models; the memory maps go with the object."""
        self._encoders.close()

    def search(
        self,
        text: str,
        *,
        stage: Stage = "fused",
        top_k: int = 10,
        filters: Mapping[str, object] | None = None,
    ) -> list[Hit]:
        """Return the best chunks by one stage, with where the other stages put them.

        Filters are equalities on metadata and hold before the cut to `top_k`. Reranking
        is done only when it is asked for.

        Raises:
            UsageError: the stage cannot run on this bundle (says why), or the query,
                `top_k` or a filter makes no sense.
            ModelNotAvailable: a model that the stage needs cannot be had.
        """
        results = self.search_stages(
            text,
            needed=(stage,),
            rerank=stage == "reranked",
            top_k=top_k,
            filters=filters,
        )
        return self.hits(results, stage, top_k)

    def search_batch(
        self,
        texts: Sequence[str],
        *,
        stage: Stage = "fused",
        top_k: int = 10,
        filters: Mapping[str, object] | None = None,
    ) -> list[list[Hit]]:
        """Return what `search` returns for each query; every core takes some.

        Raises:
            UsageError, ModelNotAvailable: as `search` does.
        """
        one = partial(self.search, stage=stage, top_k=top_k, filters=filters)
        with ThreadPoolExecutor(this_machine().cores) as pool:
            return list(pool.map(one, texts))

    def search_stages(
        self,
        text: str,
        *,
        needed: Sequence[Stage] = (),
        sparse: bool = True,
        rerank: bool = True,
        top_k: int = 10,
        filters: Mapping[str, object] | None = None,
    ) -> SearchResults:
        """Return a ranking for each stage that can run, and why the others cannot.

        Rankings are longer than `top_k` where so much is found, since fusion and
        reranking look further down. Without `sparse` the dense ranking is what is
        reranked.

        Raises:
            UsageError: a stage in `needed` cannot run, or an argument makes no sense.
            ModelNotAvailable: a stage in `needed` lacks a model, or every stage does.
        """
        self._check(text, top_k, needed)
        allowed = self.mask(filters or {})
        candidates = self._parts.candidates
        depth = min(fusion_depth(candidates, top_k), max(1, len(self)))
        read = max(top_k, candidates)  # by the reranker
        rankings: dict[Stage, RankedList] = {}
        seconds: dict[Stage, float] = {}
        missing = dict(self._parts.missing)
        for stage in _wanted(sparse=sparse, rerank=rerank):
            if stage in missing:
                continue
            started = time.perf_counter()
            before = rankings if sparse else _dense_as_fused(rankings)
            try:
                deep = read if stage == "reranked" else depth
                rankings[stage] = self._rank(stage, text, deep, allowed, before)
                seconds[stage] = time.perf_counter() - started
            except ModelNotAvailable as error:
                if self._is_needed(stage, needed):
                    raise
                missing[stage] = str(error)
        if not rankings:
            raise ModelNotAvailable(
                " ".join(["No ranking can be had.", *missing.values()])
            )
        return SearchResults(text, rankings, missing, seconds)

    def rankings(
        self, text: str, depth: int, candidates: int | None = None
    ) -> StageRankings:
        """Return a ranking by each model and the fused one, by name.

        They are `depth` deep or deeper. The fused one is that of a search which reranks
        so many candidates, None: as many as here; what only longer lists fuse stands
        behind it.

        Raises:
            UsageError: the query is empty, or `depth` is below 1.
            BundleError: the folder holds another bundle than the one opened.
            ModelNotAvailable: no ranking can be made.
        """
        self._check(text, depth, ())
        searched = fusion_depth(candidates or self._parts.candidates)
        depth = min(max(depth, searched), max(1, len(self)))
        found = StageRankings({})
        for leg in self._all_legs():
            try:
                found.lists[leg.name] = leg.rank(self._encoders, text, depth)
            except ModelNotAvailable as error:
                found.missing[leg.name] = str(error)
        if not found.lists:
            raise ModelNotAvailable(
                " ".join(["No ranking can be had.", *found.missing.values()])
            )
        by_stage = self._parts.by_stage(found.lists)
        try:
            fused = self._fused(_first(by_stage, searched), searched)
            deeper = self._fused(by_stage, depth)
            found.lists[FUSED] = followed_by(fused, deeper)
        except ModelNotAvailable as error:
            found.missing[FUSED] = str(error)
        return found

    def rerank(self, text: str, candidates: RankedList) -> RankedList:
        """Return rows of a fused ranking in the reranker's order.

        Raises:
            UsageError: this bundle cannot be reranked (says why).
            ModelNotAvailable: the reranker cannot be had.
        """
        self._check(text, 1, ("reranked",))
        return self._reranked(text, {"fused": candidates})

    def query_vectors(self, text: str) -> dict[str, Float32Array | SparseVector]:
        """Return the query's vectors by model key, in the order of the fusion's lists.

        A collection that the bundle was uploaded to has vectors of these names.

        Raises:
            UsageError: the query is empty.
            ModelNotAvailable: a model cannot be had.
        """
        self._check(text, 1, ())
        found: dict[str, Float32Array | SparseVector] = {}
        if "dense" in self._parts.fused_legs and self._parts.primary:
            found[self._parts.primary] = self._encoders.dense(text)
        if "sparse" in self._parts.fused_legs and self._parts.fused_sparse:
            found[self._parts.fused_sparse] = self._encoders.sparse(text)
        return found

    def chunk_ids(self) -> list[str]:
        """Return the chunk ids by row."""
        return [self.chunk_id(row) for row in range(len(self._parts.ids))]

    def chunk_id(self, row: int) -> str:
        """Return the id of the chunk in a row."""
        return self._parts.ids.text(row, "chunk_id")

    def metadata(self, row: int) -> dict[str, Any]:
        """Return a chunk's metadata; nothing in a bundle without points file."""
        return self._payload(row)[1]

    def hits(self, results: SearchResults, stage: Stage, top_k: int = 10) -> list[Hit]:
        """Return the first chunks of one ranking, with text and metadata."""
        ranking = results.rankings[stage]
        found = zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)
        return [
            self._hit(row, place, score, results)
            for place, (row, score) in zip(range(1, top_k + 1), found, strict=False)
        ]

    def mask(self, filters: Mapping[str, object]) -> npt.NDArray[np.bool_] | None:
        """Return bool [rows] of the rows that meet every condition; None: all do.

        Raises:
            UsageError: no chunk can meet a condition on source_subdir, or has a key.
        """
        return self._masks.of(filters)

    def row(self, chunk_id: str) -> int | None:
        """Return the row of a chunk; None: the bundle has none of that id."""
        return self._rows.find(chunk_id)

    def chunk(self, row: int) -> tuple[str, str | None, dict[str, Any]]:
        """Return a chunk's id, text and metadata; see `Hit` for those without text."""
        return (self.chunk_id(row), *self._payload(row))

    def _check(self, text: str, top_k: int, needed: Sequence[Stage]) -> None:
        if not text.strip():
            raise UsageError("The query is empty.")
        if text.encode("utf-8", "replace").decode("utf-8") != text:
            raise UsageError("The query is no valid Unicode.")
        if top_k < 1:
            raise UsageError(f"top_k must be at least 1, not {top_k}.")
        for stage in needed:
            if stage not in STAGES:
                raise UsageError(
                    f"No stage is called '{stage}'.",
                    cure=f"Known: {', '.join(STAGES)}.",
                )
            if why := self._parts.missing.get(stage):
                raise UsageError(f"The stage '{stage}' cannot run here. {why}")

    def _is_needed(self, stage: Stage, needed: Sequence[Stage]) -> bool:
        """Say whether a stage in `needed` is this one or is made from it."""
        if stage in needed:
            return True
        fused = "fused" in needed or "reranked" in needed
        return fused and stage in ("fused", *self._parts.fused_legs)

    def _rank(
        self,
        stage: Stage,
        text: str,
        depth: int,
        allowed: npt.NDArray[np.bool_] | None,
        before: Mapping[Stage, RankedList],
    ) -> RankedList:
        match stage:
            case "dense":
                return self._dense(text, depth, allowed)
            case "sparse":
                return self._sparse(text, depth, allowed)
            case "fused":
                return self._fused(before, depth)
            case "reranked":
                return self._reranked(text, _first(before, depth))

    def _dense(
        self, text: str, depth: int, allowed: npt.NDArray[np.bool_] | None
    ) -> RankedList:
        index, key = self._parts.dense, self._parts.primary
        assert index is not None and key is not None  # noqa: S101 - else in `missing`
        return DenseLeg(key, index).rank(self._encoders, text, depth, allowed)

    def _sparse(
        self, text: str, depth: int, allowed: npt.NDArray[np.bool_] | None
    ) -> RankedList:
        index, key = self._parts.sparse, self._parts.fused_sparse
        assert index is not None and key is not None  # noqa: S101 - else in `missing`
        return SparseLeg(key, index).rank(self._encoders, text, depth, allowed)

    def _all_legs(self) -> tuple[DenseLeg | SparseLeg, ...]:
        folder = self._parts.folder
        with self._lock:
            if self._legs is None:
                self._legs = of_one_bundle(folder, self.manifest, open_legs)
            if self._legs is None:
                raise BundleError(
                    f"{folder} no longer holds the bundle that was opened.",
                    cure="Open it again.",
                )
            return self._legs

    def _fused(self, rankings: Mapping[Stage, RankedList], depth: int) -> RankedList:
        for leg in self._parts.fused_legs:
            if leg not in rankings:
                raise ModelNotAvailable(f"Fusion lacks the {leg} ranking.")
        legs = [rankings[leg] for leg in self._parts.fused_legs]
        return fuse(legs, self.fusion, depth)

    def _reranked(self, text: str, rankings: Mapping[Stage, RankedList]) -> RankedList:
        if "fused" not in rankings:
            raise ModelNotAvailable("There is no fused ranking to rerank.")
        fused = rankings["fused"]
        if not len(fused):
            return fused  # nothing to load a model for
        texts = [self._payload(int(row))[0] or "" for row in fused.rows]
        return blend(fused, self._encoders.rerank(text, texts), self._parts.blend)

    def _hit(self, row: int, rank: int, score: float, results: SearchResults) -> Hit:
        text, metadata = self._payload(row)
        return Hit(
            row=row,
            chunk_id=self.chunk_id(row),
            rank=rank,
            score=score,
            text=text,
            metadata=metadata,
            stages=results.places(row),
        )

    def _payload(self, row: int) -> tuple[str | None, dict[str, Any]]:
        """Return a chunk's text and metadata, from either layout of the points.

        Raises:
            BundleError: the points file has no such line, or it is no point.
        """
        points = self._parts.points
        if points is None:
            return None, {}
        try:
            point = points[row]
            payload = point.get("payload", point)
            return payload["text"], payload["metadata"]
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                f"{points.path.name} has no point in line {row + 1}.",
                cure=repair_cure(points.path.parent),
            ) from error


def _wanted(*, sparse: bool, rerank: bool) -> tuple[Stage, ...]:
    """Return the stages to run, in their order."""
    if sparse:
        return STAGES if rerank else _CHEAP
    return ("dense", "reranked") if rerank else ("dense",)


def _dense_as_fused(rankings: Mapping[Stage, RankedList]) -> dict[Stage, RankedList]:
    """Return the dense ranking as what is left of a fusion without sparse ones."""
    return {"fused": rankings["dense"]} if "dense" in rankings else {}


def _first(rankings: Mapping[Stage, RankedList], count: int) -> dict[Stage, RankedList]:
    return {stage: cut_to(ranking, count) for stage, ranking in rankings.items()}
