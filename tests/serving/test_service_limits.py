"""Bad requests get a status and one readable line; limits hold; nothing leaks."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from search_parts import FakeEncoders, write_bundle
from serving_parts import RAN, BrokenEncoders, HeldEncoders, Running, running
from starlette.testclient import TestClient

from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.serving import middleware
from processor.ultimate_embedder.serving.app import ServiceLimits
from processor.ultimate_embedder.serving.middleware import MAX_BODY_BYTES
from processor.ultimate_embedder.serving.schemas import (
    MAX_QUERY_CHARACTERS,
    MAX_TOP_K,
)

PLANTED = "zanzibar"
TOKEN = "a-token-of-some-length"  # noqa: S105 - of a test


def post(served: Running, body: dict, timeout: float = 30) -> httpx2.Response:
    return httpx2.post(f"{served.address}/search", json=body, timeout=timeout)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "query: It is missing."),
        ({"query": ""}, "query: It is empty."),
        ({"query": " \n\x1c"}, "query: It is empty."),
        (
            {"query": "x" * (MAX_QUERY_CHARACTERS + 1)},
            f"query: It has more than {MAX_QUERY_CHARACTERS} characters.",
        ),
        ({"query": 3}, "query: It is no text."),
        ({"query": "x", "top_k": 0}, "top_k: It is less than 1."),
        ({"query": "x", "top_k": MAX_TOP_K + 1}, f"top_k: It is more than {MAX_TOP_K}"),
        ({"query": "x", "rerank": "perhaps"}, "rerank: It is neither true nor false."),
        ({"query": "x", "rerank": 1}, "rerank: It is neither true nor false."),
        ({"query": "x", "top_k": "5"}, "top_k: It is no whole number."),
        ({"query": "x", "top_k": 1.5}, "top_k: It is no whole number."),
        ({"query": "x", "top_k": None}, "top_k: It is no whole number."),
        ({"query": "x", "top_k": 1e308}, "top_k: It is no whole number."),
        ({"query": "x", "": 1}, "A field without a name: There is no such field."),
        ({"query": "x", "document": "y"}, "document: There is no such field."),
        ({"query": "x", "filters": [1]}, "filters: It is no object."),
        (
            {"query": "x", "filters": {f"k{n}": n for n in range(9)}},
            "filters: It holds more than 8 entries.",
        ),
        ({"query": "x", "filters": {"k": ["a"]}}, "filters.k: It is no text"),
        (
            {"query": "x", "filters": {"k\n": ["a"]}},
            "filters.k\N{REPLACEMENT CHARACTER}:",
        ),
        (
            {"query": "x", "filters": {"k" * 9_000: 1}},
            "filters: A name has more than 512 characters.",
        ),
        ({"query": "x", "filters": {"": 1}}, "filters: A name is empty."),
        ({"query": "x", "k" * 9_000: 1}, "kkk"),
    ],
)
def test_a_request_that_makes_no_sense_names_the_place(
    client: TestClient, body: dict, said: str
) -> None:
    response = client.post("/search", json=body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error.startswith(said)
    assert "\n" not in error
    assert len(error) <= 500
    assert response.json()["cure"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null"])
def test_a_body_that_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/search", content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert "body" in response.json()["error"]
    assert response.json()["cure"]


def test_blank_and_broken_queries_are_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    assert client.post("/search", json={"query": " \n"}).status_code == 422
    blank = client.post("/search", json={"query": " \n"})
    assert blank.json()["error"] == "query: It is empty."
    broken = client.post("/search", content=b'{"query": "\\ud800"}', headers=headers)
    assert broken.status_code == 422


@pytest.mark.parametrize("path", ["/nothing", "/chunks/none", "/page/../app.py"])
def test_what_is_not_there_is_404_with_a_line(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]


def test_a_wrong_method_is_told(client: TestClient) -> None:
    response = client.get("/search")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"] == "Method Not Allowed"


def test_a_body_over_the_limit_is_refused_stated_or_not(client: TestClient) -> None:
    large = b" " * (MAX_BODY_BYTES + 1)

    def unstated() -> Iterator[bytes]:
        yield large[:1000]
        yield large[1000:]

    for content in (large, unstated()):
        response = client.post("/search", content=content)
        assert response.status_code == 413
        assert str(MAX_BODY_BYTES) in response.json()["error"]


def test_a_token_is_needed_for_all_but_the_page(make_client) -> None:
    client = make_client(token=TOKEN)
    for path in ("/", "/page/explorer.js", "/healthz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    for path in ("/collections", "/metrics", "/chunks/x", "/page", "/docs/", "/none"):
        response = client.get(path)
        assert response.status_code == 401, path
        assert "Bearer" in response.json()["cure"]
    for wrong in ("", TOKEN, f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer é"):
        headers = {"authorization": wrong.encode()}
        assert client.get("/collections", headers=headers).status_code == 401
    right = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/collections", headers=right).status_code == 200


def test_the_description_says_which_routes_need_the_token(make_client) -> None:
    described = make_client(token=TOKEN).get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method in methods.values():
            guarded = path != "/healthz"
            assert ("401" in method["responses"]) is guarded, path
            assert bool(method.get("security")) is guarded, path
    assert "securitySchemes" not in make_client().get("/openapi.json").text


def test_another_name_than_this_machines_is_refused(make_client) -> None:
    client = make_client(hosts=("localhost", "127.0.0.1", "::1"))
    assert client.get("/healthz").status_code == 200
    for host in ("LocalHost:80", "127.0.0.1:8765", "[::1]:8765", "[::1]"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200, host
    for host in ("attacker.example", "localhost.attacker.example", "", "[::2]"):
        foreign = client.get("/healthz", headers={"host": host})
        assert foreign.status_code == 400, host
        assert "name" in foreign.json()["error"]
        assert foreign.json()["cure"] == "Ask for localhost or 127.0.0.1 or ::1."


def test_no_answer_sends_a_client_to_another_address(client: TestClient) -> None:
    for path in ("/collections/", "/healthz/", "/docs/", "/page"):
        found = client.get(path, follow_redirects=False)
        assert found.status_code == 404
        assert "location" not in found.headers


def test_searches_beyond_the_limit_wait_and_beyond_the_line_are_sent_away(
    make_client, tmp_path: Path
) -> None:
    encoders = HeldEncoders()
    path = write_bundle(tmp_path / "held", rerank=RAN)
    client = make_client(
        {"docs": open_bundle(path, encoders)},
        limits=ServiceLimits(at_once=1, waiting=1, patience=30.0),
    )
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(client.post("/search", json={"query": "x"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    threads[0].start()
    assert encoders.begun.acquire(timeout=10)  # the first one computes
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join(1.0)
        if statuses.count(503) == 4:
            break
    encoders.go.set()
    for thread in threads:
        thread.join(20)
    assert sorted(statuses) == [200, 200, 503, 503, 503, 503]


def test_one_that_waited_too_long_is_sent_away(make_client, tmp_path: Path) -> None:
    encoders = HeldEncoders()
    path = write_bundle(tmp_path / "held", rerank=RAN)
    client = make_client(
        {"docs": open_bundle(path, encoders)},
        limits=ServiceLimits(at_once=1, waiting=5, patience=0.1),
    )
    first = threading.Thread(
        target=client.post, args=("/search",), kwargs={"json": {"query": "x"}}
    )
    first.start()
    assert encoders.begun.acquire(timeout=10)
    response = client.post("/search", json={"query": "y"})
    encoders.go.set()
    first.join(20)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"] == "The service is busy."


def test_a_search_nobody_waits_for_is_not_begun(tmp_path: Path) -> None:
    encoders = HeldEncoders()
    limits = ServiceLimits(at_once=1, waiting=5, patience=30.0)
    with running(tmp_path, encoders, limits=limits) as served, ThreadPool(1) as pool:
        first = pool.apply_async(post, (served, {"query": "first"}))
        assert encoders.begun.acquire(timeout=10)  # it computes
        with pytest.raises(httpx2.ReadTimeout):
            post(served, {"query": "left"}, timeout=0.5)
        encoders.go.set()
        assert first.get(20).status_code == 200
        assert post(served, {"query": "last"}).status_code == 200
        page = httpx2.get(f"{served.address}/metrics").text
    assert encoders.texts == ["first", "last"]
    assert 'rag_service_requests_total{route="/search",status="499"} 1.0' in page


def test_a_body_that_breaks_off_is_no_request(tmp_path: Path) -> None:
    with running(tmp_path) as served:
        with socket.create_connection(served.place) as half:
            half.sendall(
                b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
                b'Content-Type: application/json\r\n\r\n{"query": "x"}'
            )
        page = ""
        for _ in range(200):
            page = httpx2.get(f"{served.address}/metrics").text
            if 'status="499"' in page:
                break
            time.sleep(0.02)
    assert 'rag_service_requests_total{route="other",status="499"} 1.0' in page
    assert 'route="/search"' not in page


def test_a_body_that_lingers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.1)
    with running(tmp_path) as served, socket.create_connection(served.place) as slow:
        slow.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        )
        slow.settimeout(20)
        answer = slow.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


def test_what_is_being_answered_is_answered_before_the_service_ends(
    tmp_path: Path,
) -> None:
    encoders = HeldEncoders()
    with running(tmp_path, encoders) as served, ThreadPool(1) as pool:
        last = pool.apply_async(post, (served, {"query": "x"}))
        assert encoders.begun.acquire(timeout=10)
        served.server.should_exit = True
        while served.listens():
            time.sleep(0.01)
        assert served.thread.is_alive()
        encoders.go.set()
        assert last.get(20).status_code == 200


def test_what_fails_inside_is_told_without_the_question(
    make_client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_bundle(tmp_path / "broken", rerank=RAN)
    client = make_client({"docs": open_bundle(path, BrokenEncoders())})
    response = client.post("/search", json={"query": PLANTED, "rerank": True})
    assert response.status_code == 500
    assert PLANTED not in response.text
    assert response.json()["cure"] == "Its log says where."
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "RuntimeError" in caplog.text
    assert "in rerank" in caplog.text
    assert PLANTED not in caplog.text
    counted = 'rag_service_requests_total{route="/search",status="500"} 1.0'
    assert counted in client.get("/metrics").text


def test_metrics_count_answers_and_hold_no_text(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client.post("/search", json={"query": f"{PLANTED} filter", "rerank": True})
    client.post("/search", json={"query": ""})
    client.get(f"/chunks/{PLANTED}")
    client.get(f"/{PLANTED}")
    page = client.get("/metrics").text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    name = "rag_service_requests_total"
    assert samples[name, "/search", "200"] == 1
    assert samples[name, "/search", "422"] == 1
    assert samples[name, "/chunks/{chunk_id:path}", "404"] == 1
    assert samples[name, "404", "other"] == 1
    assert samples["rag_service_search_seconds_count", "reranked"] == 1
    assert samples["rag_service_search_seconds_count", "total"] == 1
    assert samples[("rag_service_requests_running",)] == 1  # this one
    assert PLANTED not in page
    assert "_created" not in page
    ours = [record for record in caplog.records if record.name != "httpx2"]
    assert not any(PLANTED in record.getMessage() for record in ours)


def test_every_answer_forbids_foreign_content(client: TestClient) -> None:
    for path in ("/", "/docs", "/collections", "/nothing", "/page/explorer.css"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_page_of_the_interface_names_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "/static-offline-docs/swagger-ui-bundle.js" in page
    assert "https://" not in page
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_a_bundle_without_texts_is_served_without(make_client, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bare", exports=("npy",))
    client = make_client({"docs": open_bundle(path, FakeEncoders())})
    body = {"query": "filter", "highlight": True}
    hits = client.post("/search", json=body).json()["hits"]
    assert hits[0]["text"] is None
    assert hits[0]["highlights"] == []
