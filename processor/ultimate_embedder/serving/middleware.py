"""What holds for every request: a name, a token, a bounded body, headers, a count."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Collection
from typing import Final

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import CLIENT_LEFT, ServiceMetrics

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
"""For sending it."""
_OPEN: Final = ("/", "/healthz", "/docs", "/openapi.json")
_OPEN_FOLDERS: Final = ("/page/", "/static-offline-docs/")
_LOG = logging.getLogger(__name__)
_PAGE: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_API_PAGE: Final = _PAGE.replace("script-src", "script-src 'unsafe-inline'").replace(
    "style-src", "style-src 'unsafe-inline'"
)
"""The API's page starts itself by a line of script within."""


class NamedHosts:
    """Refuses requests that name another host; in `hosts` "*" stands for any.

    A foreign page could let its own name point here and then read the answers.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._cure = f"Ask for {' or '.join(dict.fromkeys(hosts))}."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400."""
        if scope["type"] != "http" or self._hosts & {"*", _named(scope)}:
            await self._app(scope, receive, send)
            return
        response = _problem(400, "The service does not go by that name.", self._cure)
        await response(scope, receive, send)


def _named(scope: Scope) -> str:
    """Return the name or address of the Host header, an IPv6 one without brackets."""
    host = Headers(scope=scope).get("host", "")
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


class TokenRequired:
    """Refuses requests without the token.

    The page, its files, the description of the interface and health are open.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] != "http" or _is_open(scope["path"]) or self._knows(scope):
            await self._app(scope, receive, send)
            return
        response = _problem(
            401,
            "The token is missing or wrong.",
            "Send it: 'Authorization: Bearer TOKEN'.",
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        right = secrets.compare_digest(given.strip().encode("latin-1"), self._token)
        return scheme.lower() == "bearer" and right


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_FOLDERS)


class BoundedBody:
    """Refuses bodies over `MAX_BODY_BYTES`, stated or sent, and those that linger."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body read, or answer 408 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "0")
        try:
            if not stated.isdecimal() or int(stated) > MAX_BODY_BYTES:
                raise _TooLarge
            with anyio.fail_after(BODY_SECONDS):
                body = await _read(receive)
        except _TooLarge:
            line = f"The body is over {MAX_BODY_BYTES} bytes."
            await _refuse_body(413, line, "Ask for less.")(scope, receive, send)
        except TimeoutError:
            line = f"The body was not sent within {BODY_SECONDS:.0f} seconds."
            await _refuse_body(408, line, "Send it again.")(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)


class _TooLarge(Exception):
    """The body is over the limit."""


async def _read(receive: Receive) -> bytes | None:
    """Return a body; None: the client left before it was whole.

    Raises:
        _TooLarge: it is.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _TooLarge
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


def _refuse_body(status: int, error: str, cure: str) -> JSONResponse:
    response = _problem(status, error, cure)
    response.headers["Connection"] = "close"
    return response


def _problem(status: int, error: str, cure: str) -> JSONResponse:
    return JSONResponse({"error": error, "cure": cure}, status_code=status)


class Watched:
    """Counts requests by route and status, and sets the headers of every answer.

    What fails inside is logged by its kind and place alone: its message may hold the
    question.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer; answer 500 where it failed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        statuses: list[int] = []
        marked = _marked(scope["path"], statuses, send)
        self._metrics.started()
        try:
            await self._app(scope, receive, marked)
        except Exception as error:  # noqa: BLE001 - whatever it is, it gets an answer
            frames = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("A request failed: %s\n%s", type(error).__name__, frames)
            if not statuses:
                response = _problem(500, "The service failed.", "Its log says where.")
                await response(scope, receive, marked)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(route, statuses[0] if statuses else CLIENT_LEFT)


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
