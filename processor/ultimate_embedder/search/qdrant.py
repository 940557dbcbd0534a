"""A bundle's collection in Qdrant, searched as the bundle itself is.

place = Server(url="http://localhost:6333")
with open_qdrant(Path("Embeddings/my_docs"), place) as collection:
    for hit in collection.search("how do I filter?", stage="reranked"):
        print(hit.score, hit.chunk_id)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from ..config import RerankingConfig
from ..delivery.hybrid_query import HybridQuery, fused_request, leg_requests
from ..delivery.layout import FoundPoint
from ..delivery.opening import Server, choose_target
from ..delivery.store import Store
from ..errors import BundleError, UsageError
from ..export.manifest import Manifest
from ..records import Float32Array, RankedList, SparseVector
from ..retrieval.blend import blend
from ..retrieval.fusion import FusionConfig
from .depth import fusion_depth
from .filters import SUBDIR
from .qdrant_filters import qdrant_filter
from .query_encoders import QueryEncoders
from .results import STAGES, Hit, Stage, StageScore
from .stated import Stated, stated


@dataclass(frozen=True, slots=True)
class Embedded:
    """A folder of Qdrant Edge's collections."""

    folder: Path


_QUERIES_A_REQUEST = 32  # some kilobytes of vectors each

T = TypeVar("T")

Place = Server | Embedded | Path
"""A server, the folder of Qdrant Edge, or that of qdrant-client's local mode."""


def open_qdrant(  # noqa: PLR0913 - as open_bundle's, and where the collection is
    bundle: Path,
    place: Place,
    encoders: QueryEncoders | None = None,
    *,
    collection: str | None = None,
    vector_names: Mapping[str, str] | None = None,
    offline: bool = False,
    fusion: FusionConfig | None = None,
    rerank: RerankingConfig | None = None,
    exact: bool = False,
) -> QdrantCollection:
    """Open a collection that a bundle was uploaded to.

    Of the bundle only the manifest is read: it names the models, whose query side
    is loaded when a query needs it. `collection` may be an alias. `vector_names`
    are those of the upload that differ from the models' keys, a preset's included.
    `exact` compares full vectors with every point; without it a large collection is
    searched by its index.

    Raises:
        BundleError: the folder holds no manifest, or one without a dense model.
        DeliveryError: the store cannot be reached, or has no such collection.
        UsageError: `fusion` has weights for another number of rankings.
    """
    manifest = Manifest.read(Path(bundle))
    roles = stated(manifest)
    if roles.primary is None:
        raise BundleError(
            "The manifest does not say which dense model made the bundle."
        )
    roles = roles.with_choices(fusion, rerank)
    if encoders is None:
        from .loading import ManifestEncoders

        encoders = ManifestEncoders(manifest, offline=offline, rerank=rerank)
    store = _store(place, collection or manifest.collection)
    return QdrantCollection(
        store, manifest, roles, encoders, vector_names or {}, exact=exact
    )


class QdrantCollection:
    """A collection with the models to ask it. Threads may search a server at a time.

    Texts given to it are queries: there is no way to embed one as a document.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        roles: Stated,
        encoders: QueryEncoders,
        names: Mapping[str, str],
        *,
        exact: bool = False,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._roles = roles
        self._encoders = encoders
        self._names = names
        self._exact = exact

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
        return self._store.count()

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self._manifest

    @property
    def missing(self) -> Mapping[Stage, str]:
        """Stages that cannot run, and why."""
        return dict(self._roles.missing)

    @property
    def fusion(self) -> FusionConfig:
        """How rankings are joined."""
        return self._roles.fusion.for_legs(len(self._roles.fused_legs))

    def close(self) -> None:
        """Let go of the models and of the store."""
        self._encoders.close()
        self._store.close()

    def search(
        self,
        text: str,
        *,
        stage: Stage = "fused",
        top_k: int = 10,
        filters: Mapping[str, object] | None = None,
    ) -> list[Hit]:
        """Return the best chunks by one stage, with where the lists below it put them.

        Lists are made and fused by the engine; reranking is done here, and only when
        it is asked for. A dense or sparse list is asked for alone, with its own model.

        Raises:
            UsageError: the stage cannot run (says why), or the query, `top_k` or a
                filter makes no sense.
            ModelNotAvailable: a model that the stage needs cannot be had.
            DeliveryError: the store fails.
        """
        return self.search_batch([text], stage=stage, top_k=top_k, filters=filters)[0]

    def search_batch(
        self,
        texts: Sequence[str],
        *,
        stage: Stage = "fused",
        top_k: int = 10,
        filters: Mapping[str, object] | None = None,
    ) -> list[list[Hit]]:
        """Return what `search` returns for each query; many go in one request.

        Raises:
            UsageError, ModelNotAvailable, DeliveryError: as `search` does.
        """
        for text in texts:
            self._check(text, stage, top_k, filters or {})
        deep = max(top_k, self._roles.candidates) if stage == "reranked" else top_k
        found: list[list[Hit]] = []
        for start in range(0, len(texts), _QUERIES_A_REQUEST):
            some = texts[start : start + _QUERIES_A_REQUEST]
            queries = [self._query(text, stage, top_k, filters or {}) for text in some]
            for text, lists in zip(
                some, self._lists(queries, deep, stage), strict=True
            ):
                if stage == "reranked":
                    lists["reranked"] = self._reranked(text, lists["fused"])
                found.append(_hits(lists, stage, top_k))
        return found

    def _check(
        self, text: str, stage: Stage, top_k: int, filters: Mapping[str, object]
    ) -> None:
        if not text.strip():
            raise UsageError("The query is empty.")
        if text.encode("utf-8", "replace").decode("utf-8") != text:
            raise UsageError("The query is no valid Unicode.")
        if top_k < 1:
            raise UsageError(f"top_k must be at least 1, not {top_k}.")
        if stage not in STAGES:
            raise UsageError(
                f"No stage is called '{stage}'.", cure=f"Known: {', '.join(STAGES)}."
            )
        if why := self._roles.missing.get(stage):
            raise UsageError(f"The stage '{stage}' cannot run here. {why}")
        subdirs = self._manifest.source_subdirs
        if subdirs and SUBDIR in filters and filters[SUBDIR] not in subdirs:
            raise UsageError(
                f"No source_subdir is called '{filters[SUBDIR]}'.",
                cure=f"There are: {', '.join(sorted(subdirs))}.",
            )

    def _query(
        self, text: str, stage: Stage, top_k: int, filters: Mapping[str, object]
    ) -> HybridQuery:
        vectors = {
            self._names.get(key, key): vector
            for key, vector in self._vectors(text, self._legs(stage)).items()
        }
        return HybridQuery(
            vectors=vectors,
            fusion=self._roles.fusion.for_legs(len(vectors)),
            depth=fusion_depth(self._roles.candidates, top_k),
            conditions=qdrant_filter(filters),
            exact=self._exact,
        )

    def _legs(self, stage: Stage) -> tuple[Stage, ...]:
        """Return the lists that a stage is made of: itself, where it is a list."""
        alone = stage in ("dense", "sparse")
        return (stage,) if alone else self._roles.fused_legs

    def _vectors(
        self, text: str, legs: Sequence[Stage]
    ) -> dict[str, Float32Array | SparseVector]:
        roles, found = self._roles, dict[str, Float32Array | SparseVector]()
        if "dense" in legs and roles.primary:
            found[roles.primary] = self._encoders.dense(text)
        if "sparse" in legs and roles.fused_sparse:
            found[roles.fused_sparse] = self._encoders.sparse(text)
        return found

    def _lists(
        self, queries: Sequence[HybridQuery], deep: int, stage: Stage
    ) -> list[dict[Stage, list[FoundPoint]]]:
        """Return each query's lists by leg and the fused one, in one request or two.

        A stage that is a leg itself comes alone.
        """
        legs = self._legs(stage)
        asked = [
            {**request, "with_payload": leg == stage}
            for query in queries
            for leg, request in zip(legs, leg_requests(query), strict=True)
        ]
        if stage in legs:
            return [{stage: points} for points in self._store.query(asked)]
        if self.fusion.method == "sum":
            found = self._store.query(asked)
            scores = [[point.score for point in points] for points in found]
            fused = self._store.query(
                [
                    fused_request(query, deep, own)
                    for query, own in zip(
                        queries, _of_each(scores, len(legs)), strict=True
                    )
                ]
            )
        else:
            joined = [fused_request(query, deep) for query in queries]
            found = self._store.query([*asked, *joined])
            found, fused = found[: len(asked)], found[len(asked) :]
        return [
            dict(zip([*legs, "fused"], [*own, one], strict=True))
            for own, one in zip(_of_each(found, len(legs)), fused, strict=True)
        ]

    def _reranked(self, text: str, fused: Sequence[FoundPoint]) -> list[FoundPoint]:
        if not fused:
            return []
        texts = [_payload(point).get("text") or "" for point in fused]
        scores = np.array([point.score for point in fused])
        candidates = RankedList(np.arange(len(fused), dtype=np.int64), scores)
        logits = self._encoders.rerank(text, texts)
        ranked = blend(candidates, logits, self._roles.blend)
        return [
            replace(fused[row], score=score)
            for row, score in zip(
                ranked.rows.tolist(), ranked.scores.tolist(), strict=True
            )
        ]


def _store(place: Place, collection: str) -> Store:
    server = place if isinstance(place, Server) else None
    edge = place.folder if isinstance(place, Embedded) else None
    path = place if isinstance(place, Path) else None
    store = choose_target(server, path, edge).open(collection)
    try:
        there = store.layout() is not None
    except BaseException:  # also an interrupt: the folder's lock must go
        store.close()
        raise
    if not there:
        store.close()
        raise UsageError(
            f"There is no {store.describe()}.",
            cure="Upload the bundle, or name the collection.",
        )
    return store


def _of_each(lists: Sequence[T], legs: int) -> list[Sequence[T]]:
    """Return the lists of each query, of which each has as many as there are legs."""
    return [lists[start : start + legs] for start in range(0, len(lists), legs)]


def _hits(
    lists: Mapping[Stage, Sequence[FoundPoint]], stage: Stage, top_k: int
) -> list[Hit]:
    places: dict[str, dict[Stage, StageScore]] = {}
    for name, points in lists.items():
        for rank, point in enumerate(points, start=1):
            places.setdefault(point.id, {})[name] = StageScore(rank, point.score)
    return [
        Hit(
            row=None,
            chunk_id=_payload(point).get("chunk_id", point.id),
            rank=rank,
            score=point.score,
            text=_payload(point).get("text"),
            metadata=dict(_payload(point).get("metadata") or {}),
            stages=places[point.id],
        )
        for rank, point in enumerate(lists[stage][:top_k], start=1)
    ]


def _payload(point: FoundPoint) -> Mapping[str, Any]:
    return point.payload or {}
