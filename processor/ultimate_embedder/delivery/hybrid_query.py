"""The requests by which a Qdrant engine ranks and fuses as search in the bundle does.

A request is the JSON body of `POST /collections/<name>/points/query`, which
`models.QueryRequest(**body)` takes as well.

rrf, qdrant-rrf and dbsf are Qdrant's own: one request. A sum counts a point that a
list lacks as that list's last, and only who has seen the lists knows their last
scores: `leg_requests` first, in one batch and without payload, then `fused_request`
with the scores that came, as a formula over `$score[0]`, `$score[1]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import RERANK_CANDIDATES
from ..errors import UsageError
from ..records import Float32Array, RankedList, SparseVector
from ..retrieval.fusion import FusionConfig, Scaling, scalings
from .layout import FoundPoint, Request
from .store import Store

_LAST_SCORES = "A sum needs the scores of each list."


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridQuery:
    """One question: its vectors by name, in the order of the fusion's weights.

    `depth` is the length of the lists that are fused; search fuses 100, `top_k` or as
    many as are reranked, whichever is most. `conditions` is a filter of Qdrant's.
    `exact` makes a server compare full vectors with every point, as search in a bundle
    does, where it would use its HNSW index and vectors of 8 bits.

    Raises:
        UsageError: the fusion has weights for another number of vectors.
    """

    vectors: Mapping[str, Float32Array | SparseVector]
    fusion: FusionConfig
    depth: int = RERANK_CANDIDATES
    conditions: Mapping[str, Any] | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        self.fusion.weights_for(len(self.vectors))


def search_store(store: Store, query: HybridQuery, top_k: int = 10) -> list[FoundPoint]:
    """Return the best points of a collection that a bundle was sent to.

    Raises:
        UsageError: the engine cannot fuse in this way.
        DeliveryError: the store fails.
    """
    scores = None
    if query.fusion.method == "sum":
        lists = store.query(leg_requests(query))
        scores = [[point.score for point in points] for points in lists]
    return store.query([fused_request(query, top_k, scores)])[0]


def leg_requests(query: HybridQuery) -> list[Request]:
    """Return a request for each vector's list, without payload."""
    legs = _legs(query)
    return [{**leg, **_common(query), "with_payload": False} for leg in legs]


def fused_request(
    query: HybridQuery, top_k: int, scores: Sequence[Sequence[float]] | None = None
) -> Request:
    """Return the request for the fused list.

    `scores` are those of each leg's whole list, best first; only a sum needs them.

    Raises:
        UsageError: Qdrant has no such fusion, or a sum lacks its scores.
    """
    if query.fusion.method != "sum":
        return _request(query, top_k, _own_fusion(query.fusion))
    if scores is None:
        raise UsageError(_LAST_SCORES, cure="Send `leg_requests` first.")
    vectors = query.vectors.values()
    lists = [
        _list(found, isinstance(vector, SparseVector) and len(found) < query.depth)
        for found, vector in zip(scores, vectors, strict=True)
    ]
    return _request(query, top_k, _formula(scalings(lists, query.fusion)))


def one_request(query: HybridQuery, top_k: int, last: Sequence[float]) -> Request:
    """Return a raw sum in one request, with assumed last scores of the lists.

    The scores of points in all lists are exact; one that a list lacks gets too many or
    too few points where that list ends elsewhere than assumed.

    Raises:
        UsageError: the fusion is another one.
    """
    if query.fusion.method != "sum" or query.fusion.scale != "raw":
        raise UsageError(
            f"{query.fusion} takes two requests or needs no assumption.",
            cure="Only sum(scale=raw) can be asked for with assumed last scores.",
        )
    lists = [_list([assumed], False) for assumed in last]
    return _request(query, top_k, _formula(scalings(lists, query.fusion)))


def _legs(query: HybridQuery) -> list[dict[str, Any]]:
    legs: list[dict[str, Any]] = [
        {"query": {"nearest": _plain(vector)}, "using": name, "limit": query.depth}
        for name, vector in query.vectors.items()
    ]
    if query.exact:
        params = {"exact": True, "quantization": {"ignore": True}}
        legs = [{**leg, "params": params} for leg in legs]
    return legs


def _common(query: HybridQuery) -> dict[str, Any]:
    return {} if query.conditions is None else {"filter": dict(query.conditions)}


def _request(query: HybridQuery, top_k: int, fusion: Mapping[str, Any]) -> Request:
    return {
        "prefetch": _legs(query),
        "query": dict(fusion),
        "limit": top_k,
        "with_payload": True,
        **_common(query),
    }


def _own_fusion(fusion: FusionConfig) -> dict[str, Any]:
    """Return the fusion as Qdrant says it."""
    if fusion.method == "dbsf":
        return {"fusion": "dbsf"}
    if fusion.k != int(fusion.k):
        raise UsageError(f"{fusion}: Qdrant takes whole numbers for k.")
    if fusion.method == "qdrant-rrf":
        weights = {"weights": list(fusion.weights)} if fusion.weights else {}
        return {"rrf": {"k": int(fusion.k), **weights}}
    if len(set(fusion.weights)) > 1:
        raise UsageError(
            f"{fusion}: Qdrant divides ranks by weights, where this method multiplies.",
            cure="Take qdrant-rrf, or weights that are equal.",
        )
    return {"rrf": {"k": int(fusion.k) + 1}}  # the paper's 60 is Qdrant's 61


def _formula(scaled: Sequence[Scaling]) -> dict[str, Any]:
    terms: list[Any] = [sum(scaling.shift for scaling in scaled)]
    for place, scaling in enumerate(scaled):
        if scaling.factor:
            score = {"sum": [f"$score[{place}]", -scaling.center]}
            terms.append({"mult": [scaling.factor, score]})
    return {
        "formula": {"sum": terms},
        "defaults": {f"$score[{n}]": one.last for n, one in enumerate(scaled)},
    }


def _list(scores: Sequence[float], ended: bool) -> RankedList:
    """Return a list for its scores alone; one that ended lacks only scores of 0."""
    return RankedList(
        np.arange(len(scores), dtype=np.int64),
        np.asarray(scores, dtype=np.float64),
        0.0 if ended else None,
    )


def _plain(vector: Float32Array | SparseVector) -> Any:
    if isinstance(vector, SparseVector):
        return {"indices": vector.indices.tolist(), "values": vector.values.tolist()}
    return vector.tolist()
