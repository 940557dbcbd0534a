"""Qdrant's JSON requests as objects of qdrant-edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import DeliveryError
from .layout import Request

if TYPE_CHECKING:
    from qdrant_edge import (
        Expression,
        FieldCondition,
        Filter,
        Prefetch,
        QueryRequest,
        SearchParams,
    )

_KNOWN: Final = {
    "prefetch",
    "query",
    "using",
    "limit",
    "params",
    "with_payload",
    "filter",
}


def edge_request(body: Request) -> QueryRequest:
    """Return the request for the embedded engine.

    Raises:
        DeliveryError: it holds something that is not translated.
    """
    import qdrant_edge as edge

    _check(body, _KNOWN)
    return edge.QueryRequest(
        limit=body["limit"],
        query=_query(body),
        prefetches=[_prefetch(one) for one in body.get("prefetch", ())],
        with_payload=body.get("with_payload", False),
        params=_params(body),
        filter=_filter(body.get("filter")),
    )


def _prefetch(body: Request) -> Prefetch:
    import qdrant_edge as edge

    _check(body, _KNOWN - {"with_payload"})
    return edge.Prefetch(
        limit=body["limit"],
        query=_query(body),
        prefetches=[_prefetch(one) for one in body.get("prefetch", ())],
        params=_params(body),
        filter=_filter(body.get("filter")),
    )


def _query(body: Request) -> Any:
    import qdrant_edge as edge

    match body["query"]:
        case {"nearest": {"indices": indices, "values": values}}:
            vector = edge.SparseVector(indices, values)
            return edge.Query.Nearest(vector, using=body["using"])
        case {"nearest": vector}:
            return edge.Query.Nearest(vector, using=body["using"])
        case {"rrf": rrf}:
            return edge.Fusion.Rrf(k=rrf["k"], weights=rrf.get("weights"))
        case {"fusion": "dbsf"}:
            return edge.Fusion.Dbsf()
        case {"formula": formula, "defaults": defaults}:
            return edge.Formula(_expression(formula), dict(defaults))
        case other:
            raise DeliveryError(f"Qdrant Edge is not asked in this way: {other}.")


def _expression(formula: Any) -> Expression:
    import qdrant_edge as edge

    match formula:
        case str():
            return edge.Expression.Variable(formula)
        case {"sum": terms}:
            return edge.Expression.Sum([_expression(term) for term in terms])
        case {"mult": factors}:
            return edge.Expression.Mult([_expression(factor) for factor in factors])
        case _:
            return edge.Expression.Constant(float(formula))


def _params(body: Request) -> SearchParams | None:
    import qdrant_edge as edge

    if "params" not in body:
        return None
    params = body["params"]
    _check(params, {"exact", "quantization"})
    quantization = params.get("quantization")
    if quantization is not None:
        _check(quantization, {"ignore", "rescore", "oversampling"})
        quantization = edge.QuantizationSearchParams(**quantization)
    return edge.SearchParams(
        exact=params.get("exact", False), quantization=quantization
    )


def _filter(body: Request | None) -> Filter | None:
    """Return a filter of equalities and ranges, joined by must, should and must_not."""
    import qdrant_edge as edge

    if body is None:
        return None
    _check(body, {"must", "should", "must_not"})
    parts: dict[str, list[Any]] = {
        how: [_condition(one) for one in conditions] for how, conditions in body.items()
    }
    return edge.Filter(parts.get("must"), parts.get("should"), parts.get("must_not"))


def _condition(body: Request) -> FieldCondition | Filter:
    import qdrant_edge as edge

    match body:
        case {"key": key, "match": {"value": value}}:
            return edge.FieldCondition(key, match=edge.MatchValue(value))
        case {"key": key, "match": {"text": text}}:
            return edge.FieldCondition(key, match=edge.MatchText(text))
        case {"key": key, "range": bounds}:
            return edge.FieldCondition(key, range=edge.RangeFloat(**bounds))
        case {"key": _}:
            raise DeliveryError(f"Qdrant Edge is not asked for {body}.")
    inner = _filter(body)
    assert inner is not None  # noqa: S101 - only None gives None
    return inner


def _check(body: Request, known: set[str]) -> None:
    unknown = sorted(body.keys() - known)
    if unknown:
        raise DeliveryError(
            f"Qdrant Edge is not asked for {', '.join(unknown)}.",
            cure="Ask a Qdrant server, or leave it out.",
        )
