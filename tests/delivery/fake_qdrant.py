"""Qdrant's REST interface in this process, with faults on demand.

Requests are parsed with qdrant-client's own models, which allow no unknown field, and
answered by its local mode. What the local mode does not keep (HNSW, quantisation,
payload indexes) is remembered beside it.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models

Fault = Literal[
    "drop before",
    "drop after",
    "500 before",
    "500 after",
    "429",
    "429 wait",
    "502",
    "slow",
    "twice",
]
FAULTS: tuple[Fault, ...] = Fault.__args__  # type: ignore[attr-defined]
_INSERT: TypeAdapter[Any] = TypeAdapter(models.PointInsertOperations)
_SELECT: TypeAdapter[Any] = TypeAdapter(models.PointsSelector)


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    key: str | None

    def has(self, text: str) -> bool:
        return text in f"{self.method} {self.path}"


@dataclass
class FakeQdrant:
    """State of the server; `choose` says which fault befalls a request."""

    choose: Callable[[Asked], Fault | None] = lambda _asked: None
    largest_body: int | None = None
    key: str | None = None
    slow_seconds: float = 2.5
    status: str = "green"
    client: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    asked: list[Asked] = field(default_factory=list)
    made: dict[str, models.CreateCollection] = field(default_factory=dict)
    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, text: str) -> int:
        return sum(one.has(text) for one in self.asked)

    def answer(self, asked: Asked) -> tuple[int, Any]:
        """Return status and result of a request, as the real server would."""
        try:
            with self.lock:
                return 200, _route(self, asked)
        except ValidationError as error:
            return 400, f"Format error in JSON body: {error}"
        except _Refused as error:
            return error.status, str(error)
        except ValueError as error:
            status = 404 if "not found" in str(error) else 400
            return status, f"Wrong input: {error}"


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _route(fake: FakeQdrant, asked: Asked) -> Any:  # noqa: PLR0911, PLR0912
    parts = [unquote(part) for part in asked.path.strip("/").split("/")]
    body = asked.body
    client = fake.client
    match (asked.method, *parts):
        case ("GET", ""):
            return {"title": "qdrant", "version": version("qdrant-client")}
        case ("GET", "collections"):
            return client.get_collections()
        case ("GET", "aliases"):
            return client.get_aliases()
        case ("POST", "collections", "aliases"):
            changes = models.ChangeAliasesOperation.model_validate_json(body)
            return client.update_collection_aliases(changes.actions)
        case ("GET", "collections", name, "exists"):
            return {"exists": client.collection_exists(name)}
        case ("GET", "collections", name):
            return _info(fake, name)
        case ("PUT", "collections", name):
            return _create(fake, name, body)
        case ("DELETE", "collections", name):
            fake.indexes.pop(name, None)
            return client.delete_collection(name)
        case ("PUT", "collections", name, "index"):
            index = models.CreateFieldIndex.model_validate_json(body)
            client.get_collection(name)
            schema = json.loads(index.model_dump_json(exclude_none=True))
            real = _behind(fake, name)
            fake.indexes.setdefault(real, {})[index.field_name] = schema["field_schema"]
            return _done(asked)
        case ("PUT", "collections", name, "points"):
            client.upsert(name, _INSERT.validate_json(body).points)
            return _done(asked)
        case ("POST", "collections", name, "points"):
            get = models.PointRequest.model_validate_json(body)
            return client.retrieve(
                name,
                get.ids,
                with_payload=get.with_payload or False,
                with_vectors=get.with_vector or False,
            )
        case ("POST", "collections", name, "points", "delete"):
            client.delete(name, _SELECT.validate_json(body))
            return _done(asked)
        case ("POST", "collections", name, "points", "count"):
            count = models.CountRequest.model_validate_json(body)
            return client.count(name, count.filter, exact=True)
        case ("POST", "collections", name, "points", "scroll"):
            page = models.ScrollRequest.model_validate_json(body)
            points, offset = client.scroll(
                name,
                scroll_filter=page.filter,
                limit=page.limit or 10,
                offset=page.offset,
                with_payload=page.with_payload or False,
                with_vectors=page.with_vector or False,
            )
            return {"points": points, "next_page_offset": offset}
        case ("POST", "collections", name, "points", "query", "batch"):
            batch = models.QueryRequestBatch.model_validate_json(body)
            return client.query_batch_points(name, list(map(_plain, batch.searches)))
        case ("POST", "collections", name, "points", "query"):
            one = models.QueryRequest.model_validate_json(body)
            return client.query_batch_points(name, [_plain(one)])[0]
    raise _Refused(404, f"no route {asked.method} {asked.path}")


def _behind(fake: FakeQdrant, name: str) -> str:
    aliases = {
        a.alias_name: a.collection_name for a in fake.client.get_aliases().aliases
    }
    return aliases.get(name, name)


def _create(fake: FakeQdrant, name: str, body: bytes) -> bool:
    asked = models.CreateCollection.model_validate_json(body)
    if fake.client.collection_exists(name):
        raise _Refused(409, f"Wrong input: Collection `{name}` already exists!")
    fake.made[name] = asked
    return fake.client.create_collection(
        name,
        vectors_config=asked.vectors,
        sparse_vectors_config=asked.sparse_vectors,
    )


def _info(fake: FakeQdrant, name: str) -> dict[str, Any]:
    try:
        found = json.loads(fake.client.get_collection(name).model_dump_json())
    except ValueError as error:
        raise _Refused(404, f"Not found: {error}") from error
    real = _behind(fake, name)
    found["status"] = fake.status
    found["payload_schema"] = {
        key: {
            "data_type": schema if isinstance(schema, str) else schema["type"],
            "points": 0,
        }
        for key, schema in fake.indexes.get(real, {}).items()
    }
    return found


def _plain(request: models.QueryRequest) -> models.QueryRequest:
    """Return a request without params, which the local mode says it passes over."""
    request.params = None
    prefetch = request.prefetch if isinstance(request.prefetch, list) else []
    for one in prefetch:
        one.params = None
    return request


def _done(asked: Asked) -> dict[str, Any]:
    waited = asked.query.get("wait") == ["true"]
    status = "completed" if waited else "acknowledged"
    return {"operation_id": 0, "status": status}


def _jsonable(result: Any) -> Any:
    if isinstance(result, BaseModel):
        return json.loads(result.model_dump_json())
    if isinstance(result, list):
        return [_jsonable(one) for one in result]
    if isinstance(result, dict):
        return {key: _jsonable(value) for key, value in result.items()}
    return result


class _Handler(BaseHTTPRequestHandler):
    fake: FakeQdrant

    def handle_any(self) -> None:
        fake = self.fake
        parts = urlsplit(self.path)
        length = int(self.headers["content-length"] or 0)
        asked = Asked(
            self.command,
            parts.path,
            parse_qs(parts.query),
            self.rfile.read(length),
            self.headers["api-key"],
        )
        fake.asked.append(asked)
        if fake.key is not None and asked.key != fake.key:
            self._send(401, b"Must provide an API key", {})
            return
        if fake.largest_body is not None and length > fake.largest_body:
            self._send(413, b"Payload too large", {})
            return
        self._befall(asked, fake.choose(asked))

    def _befall(self, asked: Asked, fault: Fault | None) -> None:
        match fault:
            case "drop before":
                self._hang_up()
            case "500 before":
                self._send(500, _failed("no luck"), {})
            case "502":
                self._send(502, b"<html>Bad Gateway</html>", {})
            case "429":
                self._send(429, _failed("too many"), {})
            case "429 wait":
                self._send(429, _failed("too many"), {"Retry-After": "1"})
            case _:
                status, result = self.fake.answer(asked)
                self._after(asked, fault, status, result)

    def _after(
        self, asked: Asked, fault: Fault | None, status: int, result: Any
    ) -> None:
        match fault:
            case "drop after":
                self._hang_up()
                return
            case "500 after":
                self._send(500, _failed("lost the thread"), {})
                return
            case "slow":
                time.sleep(self.fake.slow_seconds)
            case "twice":
                status, result = self.fake.answer(asked)
        if status == 200 and asked.path in {"", "/"}:
            content = result
        elif status == 200:
            content = {"result": _jsonable(result), "status": "ok", "time": 0.001}
        else:
            content = {"status": {"error": result}, "time": 0.001}
        self._send(status, json.dumps(content).encode(), {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up waiting

    def _hang_up(self) -> None:
        """End the connection with a reset, as a dying server does."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


def _failed(text: str) -> bytes:
    return json.dumps({"status": {"error": text}, "time": 0.0}).encode()


@contextmanager
def serving(fake: FakeQdrant) -> Iterator[str]:
    """Serve on a free port; gives the address."""
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        fake.client.close()
