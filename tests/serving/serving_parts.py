"""A service that listens, over bundles with hostile texts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from search_parts import TEXTS, FakeEncoders, write_bundle

from processor.ultimate_embedder.export.manifest_sections import RerankRan
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.serving.app import create_app
from processor.ultimate_embedder.serving.service import SearchService

RAN = RerankRan(model="word-overlap", queries=1, candidates=9, top_k=9)
HOSTILE = (
    "<script>document.title = 'owned'</script> <img src=x onerror=\"alert(1)\"> "
    "a shard 🦀🦀 is copied </textarea></pre>"
)
HOSTILE_TEXTS = [*TEXTS, ("guides", HOSTILE, 99)]


class HeldEncoders(FakeEncoders):
    """Each dense query waits until `go` is set; `begun` counts those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.texts: list[str] = []

    def dense(self, text: str, key: str | None = None) -> Float32Array:
        self.texts.append(text)
        self.begun.release()
        assert self.go.wait(30)
        return super().dense(text, key)


class BrokenEncoders(FakeEncoders):
    """Fails as no program should, with the query in the error."""

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        raise RuntimeError(f"cannot rerank {text}")


@dataclass
class Running:
    """A service that listens; `stop` ends it in order."""

    address: str
    server: uvicorn.Server
    thread: threading.Thread = field(repr=False)

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.address.removeprefix("http://").partition(":")
        return host, int(port)

    def listens(self) -> bool:
        with suppress(ConnectionError), socket.create_connection(self.place):
            return True
        return False

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def running(
    folder: Path,
    encoders: FakeEncoders | None = None,
    *,
    bundle: Path | None = None,
    others: Mapping[str, Path] | None = None,
    warm: bool = False,
    **options: object,
) -> Iterator[Running]:
    """Serve `bundle` and others; with `warm` the models are loaded first."""
    bundle = bundle or write_bundle(folder / "s", texts=HOSTILE_TEXTS, rerank=RAN)
    paths = {"docs": bundle, **(others or {})}
    encoders = encoders or FakeEncoders()
    service = SearchService(
        {name: open_bundle(path, encoders) for name, path in paths.items()}
    )
    if warm:
        service.warm_up()
    app = create_app(service, **options)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = listening.getsockname()[1]
        yield (found := Running(f"http://127.0.0.1:{port}", server, thread))
    finally:
        found.stop()
