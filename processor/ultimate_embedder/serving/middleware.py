"""What holds for every request: a token, a bounded body, headers, and a count."""

from __future__ import annotations

import secrets
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import ServiceMetrics

MAX_BODY_BYTES: Final = 64 * 1024
_OPEN: Final = ("/healthz", "/page/", "/static-offline-docs/")
_PAGE: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_API_PAGE: Final = _PAGE.replace("script-src", "script-src 'unsafe-inline'").replace(
    "style-src", "style-src 'unsafe-inline'"
)
"""The API's page starts itself by a line of script within."""


class TokenRequired:
    """Refuses requests without the token; the page itself and its files are open."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] != "http" or _is_open(scope["path"]) or self._knows(scope):
            await self._app(scope, receive, send)
            return
        response = JSONResponse(
            {
                "error": "The token is missing or wrong.",
                "cure": "Send it: 'Authorization: Bearer TOKEN'.",
            },
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )
        await response(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        right = secrets.compare_digest(given.strip().encode("latin-1"), self._token)
        return scheme.lower() == "bearer" and right


def _is_open(path: str) -> bool:
    return path == "/" or path.startswith(_OPEN)


class BoundedBody:
    """Refuses bodies over `MAX_BODY_BYTES`, stated or sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body read, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "0")
        body = None
        if stated.isdecimal() and int(stated) <= MAX_BODY_BYTES:
            body = await _read(receive)
        if body is None:
            await _too_large(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    """Return a body; None: it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse(
        {"error": f"The body is over {MAX_BODY_BYTES} bytes.", "cure": None},
        status_code=413,
        headers={"Connection": "close"},
    )
    await response(scope, receive, send)


class Watched:
    """Counts requests by route and status, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        statuses: list[int] = []
        self._metrics.started()
        try:
            await self._app(scope, receive, _marked(scope["path"], statuses, send))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(route, statuses[0] if statuses else 500)


def _marked(path: str, statuses: list[int], send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = _API_PAGE if path == "/docs" else _PAGE
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers["Cache-Control"] = (
                "no-cache" if path.startswith("/page/") else "no-store"
            )
        await send(message)

    return marked
