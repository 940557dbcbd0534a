"""Services over small bundles, and a browser where one is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "search"))

from search_parts import FakeEncoders, write_bundle
from serving_parts import RAN, Running, running
from starlette.testclient import TestClient

from processor.ultimate_embedder.search import Bundle, open_bundle
from processor.ultimate_embedder.serving.app import create_app
from processor.ultimate_embedder.serving.service import SearchService

MakeClient = Callable[..., TestClient]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a bundle of 27 chunks with every stage."""
    return open_bundle(write_bundle(tmp_path / "out", rerank=RAN), FakeEncoders())


@pytest.fixture
def make_client(bundle: Bundle) -> Iterator[MakeClient]:
    """Return a function that gives a client of a service over bundles."""
    clients: list[TestClient] = []

    def make(bundles: dict[str, Bundle] | None = None, **options: object) -> TestClient:
        app = create_app(SearchService(bundles or {"docs": bundle}), **options)
        client = TestClient(
            app, base_url="http://localhost", raise_server_exceptions=False
        )
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Running]:
    """Yield a service on a port of this machine, over a bundle with hostile texts."""
    with running(tmp_path) as found:
        yield found
