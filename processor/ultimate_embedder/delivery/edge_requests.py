"""Qdrant's JSON requests as objects of qdrant-edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import DeliveryError
from .layout import Request

if TYPE_CHECKING:
    from qdrant_edge import Expression, Prefetch, QueryRequest, SearchParams

_KNOWN: Final = {"prefetch", "query", "using", "limit", "params", "with_payload"}


def edge_request(body: Request) -> QueryRequest:
    """Return the request for the embedded engine.

    Raises:
        DeliveryError: it holds something that is not translated, such as a filter.
    """
    import qdrant_edge as edge

    _check(body, _KNOWN)
    return edge.QueryRequest(
        limit=body["limit"],
        query=_query(body),
        prefetches=[_prefetch(one) for one in body.get("prefetch", ())],
        with_payload=body.get("with_payload", False),
        params=_params(body),
    )


def _prefetch(body: Request) -> Prefetch:
    import qdrant_edge as edge

    _check(body, _KNOWN - {"with_payload"})
    return edge.Prefetch(
        limit=body["limit"],
        query=_query(body),
        prefetches=[_prefetch(one) for one in body.get("prefetch", ())],
        params=_params(body),
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
    _check(body["params"], {"exact"})
    return edge.SearchParams(exact=body["params"]["exact"])


def _check(body: Request, known: set[str]) -> None:
    unknown = sorted(body.keys() - known)
    if unknown:
        raise DeliveryError(
            f"Qdrant Edge is not asked for {', '.join(unknown)}.",
            cure="Ask a Qdrant server, or leave it out.",
        )
