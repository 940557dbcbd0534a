"""The HTTP application: routes, errors and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from ..errors import EmbedderError, ModelNotAvailable, UnknownFilter, UsageError
from ..telemetry.printable import printable
from .faults import first_fault
from .gate import Busy, Gate, Left
from .metrics import CLIENT_LEFT, CONTENT_TYPE, ServiceMetrics
from .middleware import BoundedBody, NamedHosts, TokenRequired, Watched
from .schemas import (
    MAX_NAME_CHARACTERS,
    ChunkResponse,
    CollectionsResponse,
    Health,
    Problem,
    SearchRequest,
    SearchResponse,
)
from .service import NotFound, SearchService

_PAGE = Path(__file__).parent / "page"
_STATUS: dict[type[Exception], int] = {
    NotFound: 404,
    UnknownFilter: 404,
    UsageError: 422,
    ModelNotAvailable: 503,
    EmbedderError: 500,
}
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
_LONGEST_LINE = 500
_BUSY = Problem(error="The service is busy.", cure="Ask again in a moment.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """`at_once` searches run, `waiting` more wait, for `patience` seconds at most."""

    at_once: int = 2
    waiting: int = 32
    patience: float = 10.0


def create_app(
    service: SearchService,
    *,
    limits: ServiceLimits | None = None,
    token: str | None = None,
    hosts: tuple[str, ...] = ("*",),
) -> FastAPI:
    """Return the application over open bundles; it closes them when it ends.

    With a `token` every request needs it, but for the page, the description of the
    interface and health. `hosts` are the names under which it may be asked.
    """
    metrics = ServiceMetrics()
    app = _described(_closing(service))
    guarded = _guarded() if token else {}
    app.include_router(_search_routes(service, _gate(limits), metrics), **guarded)
    app.include_router(_metrics_route(metrics), **guarded)
    app.include_router(_open_routes(service))
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    _add_error_handlers(app)
    app.add_middleware(BoundedBody)
    if token:
        app.add_middleware(TokenRequired, token=token)
    app.add_middleware(NamedHosts, hosts=hosts)
    app.add_middleware(Watched, metrics=metrics)
    return app


def _described(lifespan: Callable[[FastAPI], Any]) -> FastAPI:
    """Return an application without routes, but for the page of its interface."""
    app: FastAPI = FastAPIOffline(
        title="Ultimate Embedder: search",
        version="1",
        description="Search in bundles: dense, sparse, fused and reranked.",
        redoc_url=None,
        redirect_slashes=False,  # the address in a redirect is what the client named
        lifespan=lifespan,
    )
    return app


def _guarded() -> dict[str, Any]:
    """Return what says in the description that routes need a token."""
    bearer = HTTPBearer(auto_error=False, description="The service's token.")
    return {"dependencies": [Depends(bearer)], "responses": _problems(401)}


def _gate(limits: ServiceLimits | None) -> Gate:
    limits = limits or ServiceLimits()
    return Gate(
        at_once=limits.at_once, waiting=limits.waiting, patience=limits.patience
    )


def _closing(service: SearchService) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    return lifespan


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


def _search_routes(
    service: SearchService, gate: Gate, metrics: ServiceMetrics
) -> APIRouter:
    routes = APIRouter(tags=["search"])

    @routes.post("/search", responses=_problems(400, 404, 408, 413, 422, 500, 503))
    async def search(asked: SearchRequest, request: Request) -> SearchResponse:
        """Return the chunks that answer a question best."""
        found = await gate.run(lambda: service.search(asked), request.is_disconnected)
        metrics.searched(found.milliseconds)
        return found

    @routes.get("/chunks/{chunk_id:path}", responses=_problems(400, 404, 422, 500))
    def chunk(
        chunk_id: str,
        collection: Annotated[
            str | None, Query(min_length=1, max_length=MAX_NAME_CHARACTERS)
        ] = None,
    ) -> ChunkResponse:
        """Return one chunk by its id."""
        return service.chunk(chunk_id, collection)

    @routes.get("/collections", responses=_problems(400))
    def collections() -> CollectionsResponse:
        """Return what is served."""
        return CollectionsResponse(collections=service.collections())

    return routes


def _metrics_route(metrics: ServiceMetrics) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={**_TEXT, **_problems(400)},
    )
    def show_metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(metrics.page(), media_type=CONTENT_TYPE)

    return routes


def _open_routes(service: SearchService) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz", responses=_problems(400))
    def healthz() -> Health:
        """Say that the service answers."""
        return Health(collections=len(service))

    @routes.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html")

    return routes


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(422, first_fault(error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        found = Problem(error=str(error.detail), cure="See /docs.")
        return _answer(error.status_code, found, dict(error.headers or {}))

    @app.exception_handler(Busy)
    async def busy(_: Request, __: Busy) -> JSONResponse:
        return _answer(503, _BUSY, {"Retry-After": "1"})

    @app.exception_handler(EmbedderError)
    async def failed(_: Request, error: EmbedderError) -> JSONResponse:
        status = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
        return _answer(status, Problem(error=error.message, cure=error.cure))

    @app.exception_handler(Left)
    async def left(_: Request, __: Left) -> Response:
        return Response(status_code=CLIENT_LEFT)


def _answer(
    status: int, problem: Problem, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return a problem on one line, whatever it repeats of the request."""
    lines = {
        name: line and printable(line, _LONGEST_LINE)
        for name, line in problem.model_dump().items()
    }
    return JSONResponse(lines, status_code=status, headers=headers)
