"""A hub on this machine that speaks as much of the protocol as downloads need.

It can be told to fail: by status, or by breaking the connection off.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
LATER = "b" * 40


@dataclass
class Site:
    """What the hub has: files by (model, commit), and what its branches are at.

    `failures` are taken one by one by the requests whose path holds their text: a
    status, or 0 to break off.
    """

    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    references: dict[tuple[str, str], str] = field(default_factory=dict)
    failures: list[tuple[str, int]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    endpoint: str = ""

    def publish(
        self,
        model: str,
        folder: Path,
        *,
        commit: str = COMMIT,
        reference: str = "main",
    ) -> None:
        """Offer all files of a folder at a commit, and let a branch be at it."""
        self.files[model, commit] = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.references[model, reference] = commit

    def failure(self, path: str) -> int | None:
        """Return how this request fails, None: it does not."""
        for position, (text, status) in enumerate(self.failures):
            if text in path:
                del self.failures[position]
                return status
        return None

    def downloads(self, name: str) -> int:
        """Return how often a file was sent."""
        return sum(
            line.startswith("GET") and line.endswith(f"/{name}") for line in self.asked
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.asked.append(f"{self.command} {path}")
        failing = self.site.failure(path)
        if failing == 0:
            self._break_off()
        elif failing is not None:
            self._send(failing, b"", body=body)
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"), body=body)
        else:
            self._file(path.removeprefix("/"), body=body)

    def _api(self, path: str, *, body: bool) -> None:
        org, name, *rest = path.split("/", 3)
        model = f"{org}/{name}"
        if model in self.site.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body=body)
            return
        if not any(known == model for known, _ in self.site.files):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"}, body=body)
            return
        what, revision = rest
        commit = self.site.references.get((model, revision), revision)
        files = self.site.files.get((model, commit))
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)
            return
        sizes = {name: len(content) for name, content in files.items()}
        found: object = {
            "id": model,
            "sha": commit,
            "siblings": [{"rfilename": n, "size": s} for n, s in sizes.items()],
        }
        if what == "tree":
            found = [
                {"type": "file", "path": n, "size": s, "oid": "0" * 40}
                for n, s in sizes.items()
            ]
        content = json.dumps(found).encode()
        self._send(200, content, {"Content-Type": "application/json"}, body=body)

    def _file(self, path: str, *, body: bool) -> None:
        org, name, _, commit, file = path.split("/", 4)
        content = self.site.files.get((f"{org}/{name}", commit), {}).get(file)
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            self._send(404, b"", headers, body=body)
            return
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit}
        self._send(200, content, headers, body=body)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        body: bool,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _break_off(self) -> None:
        """Close with a reset, as a router that forgets the connection does."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()


@contextmanager
def running_site() -> Iterator[Site]:
    """Serve an empty hub on a free port for the length of the block."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    site.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
