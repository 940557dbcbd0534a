"""gRPC where its port answers, HTTP elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc as rpc
import pytest
from delivery_bundle import Content
from fake_qdrant import FakeQdrant
from fake_qdrant import serving as serving_http
from fake_qdrant_grpc import FakeGrpc, Fault, serving

from processor.ultimate_embedder.delivery.bundle_points import plan_upload
from processor.ultimate_embedder.delivery.opening import Server, at_server
from processor.ultimate_embedder.delivery.retry import Retries
from processor.ultimate_embedder.delivery.upload import UploadReport, send_bundle
from processor.ultimate_embedder.errors import DeliveryError, UsageError
from processor.ultimate_embedder.records import point_id

QUICK = Retries(patience=5, first=0.001, longest=0.01)


@pytest.fixture
def fake() -> FakeGrpc:
    return FakeGrpc()


@pytest.fixture
def port(fake: FakeGrpc) -> Iterator[int]:
    with serving(fake) as number:
        yield number


def send(bundle: Path, server: Server, retries: Retries = QUICK) -> UploadReport:
    with closing(at_server(server, "docs", retries)) as store:
        return send_bundle(plan_upload(bundle), store)


def test_grpc_is_taken_where_its_port_answers(
    bundle: Path, content: Content, fake: FakeGrpc, port: int
) -> None:
    report = send(bundle, Server(url="http://127.0.0.1:9", grpc_port=port))
    assert "(gRPC)" in report.target
    assert (report.points_after, report.compared) == (60, 60)
    assert "CreateFieldIndex metadata.source_subdir" in fake.asked
    stored = {
        str(record.id): record for record in fake.client.scroll("docs", limit=100)[0]
    }
    for chunk in content.chunks:
        payload = stored[point_id(chunk.chunk_id)].payload
        assert payload is not None
        assert payload["metadata"] == chunk.metadata


def test_http_is_taken_where_the_port_does_not_answer(
    bundle: Path, fake: FakeGrpc
) -> None:
    http = FakeQdrant()
    with serving_http(http) as url:
        report = send(bundle, Server(url=url, grpc_port=9))
        assert "(HTTP)" in report.target
        assert http.client.count("docs").count == 60


def test_http_is_taken_where_something_else_answers_at_the_port(bundle: Path) -> None:
    http = FakeQdrant()
    with serving_http(http) as url:
        other = int(url.rpartition(":")[2])  # an HTTP server, no gRPC
        assert "(HTTP)" in send(bundle, Server(url=url, grpc_port=other)).target


def test_http_alone_is_spoken_beneath_a_path_or_when_it_is_asked_for(
    bundle: Path, fake: FakeGrpc, port: int
) -> None:
    http = FakeQdrant()
    with serving_http(http) as url:
        server = Server(url=url, grpc_port=port, transport="http")
        assert "(HTTP)" in send(bundle, server).target
    proxied = Server(url="http://127.0.0.1:9/qdrant", grpc_port=port)
    with pytest.raises(DeliveryError, match="cannot be reached"):
        send(bundle, proxied)
    assert fake.asked == []


def test_grpc_that_was_asked_for_and_is_not_there_is_an_error(bundle: Path) -> None:
    server = Server(url="http://127.0.0.1:9", grpc_port=9, transport="grpc")
    with pytest.raises(DeliveryError, match="UNAVAILABLE") as refused:
        send(bundle, server)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "code",
    [
        rpc.StatusCode.UNAVAILABLE,
        rpc.StatusCode.RESOURCE_EXHAUSTED,
        rpc.StatusCode.INTERNAL,
    ],
)
def test_failures_of_grpc_that_may_pass_are_waited_for(
    bundle: Path, fake: FakeGrpc, port: int, code: rpc.StatusCode
) -> None:
    def choose(_call: str) -> Fault:
        return code if len(fake.asked) % 3 == 0 else None

    fake.choose = choose
    report = send(
        bundle, Server(url="http://127.0.0.1:9", grpc_port=port, transport="grpc")
    )
    assert report.points_after == 60
    assert fake.client.count("docs").count == 60


def test_a_refused_key_and_a_wrong_request_are_not_asked_again(
    bundle: Path, fake: FakeGrpc, port: int
) -> None:
    fake.key = "secret"
    server = Server(url="http://127.0.0.1:9", grpc_port=port, transport="grpc")
    with pytest.raises(DeliveryError, match="UNAUTHENTICATED") as refused:
        send(bundle, server)
    assert "QDRANT_API_KEY" in (refused.value.cure or "")
    assert len(fake.asked) == 1
    fake.key = None
    fake.choose = lambda call: (
        rpc.StatusCode.INVALID_ARGUMENT if call == "Upsert" else None
    )
    with pytest.raises(DeliveryError, match="INVALID_ARGUMENT"):
        send(bundle, server)
    assert fake.asked.count("Upsert") == 1


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://host", "http://", "://x"),
        *("http://[::1", "http://[secret]:6333", "http://host℀:6333"),
        *("http://host:99999", "host:99999", "http://host:port"),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no address") as refused:
        Server(url=url)
    assert url in refused.value.message
    assert "http://localhost:6333" in (refused.value.cure or "")


@pytest.mark.parametrize("url", ["cluster:6333", "localhost:6333", "[::1]:6333"])
def test_an_address_without_a_scheme_is_opened(url: str) -> None:
    with closing(at_server(Server(url=url, transport="http"), "docs")) as store:
        assert store.identity() == url


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("http://localhost:6333", False),
        ("127.0.0.1:6333", False),
        ("https://cluster:6333", False),
        ("http://cluster:6333", True),
        ("cluster:6333", True),
    ],
)
def test_a_key_on_an_open_network_is_noticed(url: str, clear: bool) -> None:
    assert Server(url=url, api_key="key").key_in_clear is clear
    assert not Server(url=url).key_in_clear
