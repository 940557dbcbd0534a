"""Spans by content, taken from the SDK's own in-memory exporter."""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_tracer_provider

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.telemetry import events as ev
from processor.ultimate_embedder.telemetry.events import fan_out
from processor.ultimate_embedder.telemetry.otel import (
    OtelListener,
    otel_listener,
    otlp_exporter,
)
from processor.ultimate_embedder.telemetry.otlp_file import OtlpFileExporter
from processor.ultimate_embedder.telemetry.span_delivery import in_words


def spans_of(events: list[ev.Event]) -> dict[str, ReadableSpan]:
    """Return the spans of the run and its stages by name."""
    exporter = InMemorySpanExporter()
    listener = OtelListener({"memory": exporter})
    for event in events:
        listener(event)
    listener.close()
    return {
        span.name: span
        for span in exporter.get_finished_spans()
        if not span.name.endswith(".batch")
    }


def test_each_stage_is_a_child_of_the_run(small_run) -> None:
    spans = spans_of(small_run)
    root = spans.pop("rag.run")
    assert root.parent is None
    assert set(spans) == {"rag.dense", "rag.sparse", "rag.rerank", "rag.export"}
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert span.context.trace_id == root.context.trace_id


def test_spans_carry_the_times_of_the_events(small_run) -> None:
    spans = spans_of(small_run)
    assert spans["rag.run"].start_time == 1_000_000_000_000
    assert spans["rag.run"].end_time == round(small_run[-1].at * 1e9)
    assert spans["rag.dense"].start_time == 1_001_500_000_000
    assert spans["rag.dense"].end_time == 1_003_000_000_000


def test_spans_carry_figures_as_attributes(small_run) -> None:
    spans = spans_of(small_run)
    assert dict(spans["rag.dense"].attributes or {}) == {
        "rag.stage": "dense",
        "rag.collection": "docs",
        "rag.model": "all-miniLM-l6",
        "rag.unit": "chunks",
        "rag.items": 8,
        "rag.tokens": 200,
        "rag.batches": 2,
        "rag.batch_size": 4,
        "rag.device": "cuda:0",
        "rag.gpu_peak_bytes": 5000,
        "rag.fallback_used": False,
    }
    sparse = spans["rag.sparse"].attributes or {}
    assert sparse["rag.fallback_used"] is True
    assert sparse["rag.fallback_reason"] == "no weights"
    assert (spans["rag.rerank"].attributes or {})["rag.candidates"] == 100
    run = spans["rag.run"].attributes or {}
    assert run["rag.run_id"] == "run-1"
    assert run["rag.collections"] == ("docs",)
    assert run["rag.exit_code"] == 0


def test_reading_chunk_files_is_the_chunk_span() -> None:
    spans = spans_of(
        [
            ev.StageStarted(stage="read", collection="docs"),
            ev.StageFinished(stage="read", collection="docs", items=1, seconds=1),
        ]
    )
    assert set(spans) == {"rag.chunk"}


def test_a_skipped_stage_and_an_oom_retry_are_marked_where_they_happen() -> None:
    spans = spans_of(
        [
            ev.RunStarted(run_id="r", collections=("docs",), settings={}),
            ev.StageSkipped(
                stage="rerank", collection="docs", reason="off", layer="command line"
            ),
            ev.StageStarted(stage="dense", collection="docs", model="m"),
            ev.MemoryRetried(
                at=5, stage="dense", model="m", device="cuda:0", budget_tokens=64
            ),
            ev.StageFinished(
                stage="dense", collection="docs", model="m", items=1, seconds=1
            ),
            ev.RunFinished(run_id="r", exit_code=0, seconds=1),
        ]
    )
    (skipped,) = spans["rag.run"].events
    assert skipped.name == "rag.stage_skipped"
    assert dict(skipped.attributes or {}) == {
        "rag.stage": "rerank",
        "rag.collection": "docs",
        "rag.reason": "off",
        "rag.layer": "command line",
    }
    (retried,) = spans["rag.dense"].events
    assert retried.timestamp == 5_000_000_000
    assert dict(retried.attributes or {})["rag.budget_tokens"] == 64


def test_a_stage_that_never_finished_is_an_error_span() -> None:
    spans = spans_of(
        [
            ev.RunStarted(at=1, run_id="r", collections=("docs",), settings={}),
            ev.StageStarted(at=2, stage="dense", collection="docs", model="m"),
            ev.CollectionFinished(
                at=3, collection="docs", chunks=0, seconds=1, error="It broke."
            ),
            ev.RunFinished(at=4, run_id="r", exit_code=1, seconds=3),
        ]
    )
    assert spans["rag.dense"].status.status_code is StatusCode.ERROR
    assert spans["rag.dense"].status.description == "It broke."
    assert spans["rag.dense"].end_time == 3_000_000_000
    assert spans["rag.run"].status.status_code is StatusCode.ERROR


def test_closing_in_the_middle_of_a_run_ends_every_span() -> None:
    spans = spans_of(
        [
            ev.RunStarted(run_id="r", collections=("docs",), settings={}),
            ev.StageStarted(stage="dense", collection="docs", model="m"),
        ]
    )
    assert {span.status.status_code for span in spans.values()} == {StatusCode.ERROR}
    assert set(spans) == {"rag.run", "rag.dense"}


def test_the_process_wide_tracer_provider_is_left_alone(small_run) -> None:
    before = get_tracer_provider()
    spans_of(small_run)
    assert get_tracer_provider() is before


def test_the_service_has_our_name_unless_the_environment_gives_another(
    small_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = spans_of(small_run)["rag.run"].resource.attributes["service.name"]
    assert name == "ultimate-embedder"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "another")
    assert (
        spans_of(small_run)["rag.run"].resource.attributes["service.name"] == "another"
    )


def test_a_checkout_that_is_not_installed_is_traced_without_a_version(
    small_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    resource = spans_of(small_run)["rag.run"].resource
    assert resource.attributes["service.name"] == "ultimate-embedder"
    assert "service.version" not in resource.attributes


def test_a_file_gets_each_span_as_a_line_of_json(small_run, tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    listener = OtelListener({"file": OtlpFileExporter(path)})
    for event in small_run:
        listener(event)
    listener.close()
    (line,) = path.read_text().splitlines()
    (resource,) = json.loads(line)["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    assert {span["name"] for span in scope["spans"]} == set(listener.spans_exported)
    dense = next(span for span in scope["spans"] if span["name"] == "rag.dense")
    assert {"key": "rag.items", "value": {"intValue": "8"}} in dense["attributes"]


def test_a_file_that_cannot_be_opened_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        OtlpFileExporter(tmp_path / "missing" / "spans.jsonl")


class Broken(SpanExporter):
    """An exporter that fails at everything."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("no route")

    def shutdown(self) -> None:
        raise RuntimeError("still no route")


def test_a_broken_exporter_loses_its_spans_and_nothing_else(
    small_run, caplog: pytest.LogCaptureFixture
) -> None:
    good = InMemorySpanExporter()
    listener = OtelListener({"broken": Broken(), "good": good})
    emit = fan_out([listener])
    with caplog.at_level(logging.WARNING):
        for event in small_run:
            emit(event)
        listener.close()
    assert len(good.get_finished_spans()) == 9
    assert listener.spans_failed == 9
    assert listener.spans_exported == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no route" in caplog.text


@pytest.mark.parametrize(
    ("remark", "meant"),
    [
        (
            "Transient error HTTPConnectionPool(host='127.0.0.1', port=4318): Max "
            "retries exceeded with url: /v1/traces (Caused by NewConnectionError("
            "\"HTTPConnection(host='127.0.0.1', port=4318): Failed to establish a new "
            'connection: [Errno 111] Connection refused")) encountered while exporting',
            "connection refused",
        ),
        (
            "Transient error StatusCode.UNAVAILABLE encountered while exporting. Error "
            "details: errors resolving nohost:4317: [Domain name not found]",
            "there is no host of this name",
        ),
        ("Failed to export spans batch code: 404, reason: Not Found", None),
    ],
)
def test_why_spans_are_lost_is_told_in_a_few_words(
    remark: str, meant: str | None
) -> None:
    assert in_words(remark) == (meant or remark)


def test_a_long_remark_is_cut_between_words() -> None:
    assert in_words("something else " * 30).endswith("something else …")


def test_exported_spans_are_counted_by_name(small_run) -> None:
    listener = OtelListener({"memory": InMemorySpanExporter()})
    for event in small_run:
        listener(event)
    listener.close()
    listener.close()
    assert listener.spans_exported == {
        "rag.dense": 1,
        "rag.dense.batch": 2,
        "rag.export": 1,
        "rag.rerank": 1,
        "rag.rerank.batch": 1,
        "rag.run": 1,
        "rag.sparse": 1,
        "rag.sparse.batch": 1,
    }


class Collector:
    """A loopback OTLP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.names: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                collector.paths.append(self.path)
                collector.names += [
                    span.name
                    for resource in request.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Keep the test's output clean."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.parametrize(
    ("path", "received_at"),
    [
        ("", "/v1/traces"),
        ("/", "/v1/traces"),
        ("/base", "/base/v1/traces"),
        ("/base/v1/traces", "/base/v1/traces"),
    ],
)
def test_an_otlp_endpoint_receives_the_spans_over_http(
    small_run, path: str, received_at: str
) -> None:
    collector = Collector()
    try:
        endpoint = f"http://127.0.0.1:{collector.port}{path}"
        listener = OtelListener({"http": otlp_exporter(endpoint)})
        for event in small_run:
            listener(event)
        listener.close()
    finally:
        collector.close()
    assert set(collector.paths) == {received_at}
    assert Counter(collector.names) == listener.spans_exported


def test_the_port_or_the_protocol_chooses_grpc() -> None:
    for exporter in (
        otlp_exporter("http://localhost:4317"),
        otlp_exporter("http://localhost:9999", "grpc"),
    ):
        assert ".grpc." in type(exporter).__module__
        exporter.shutdown()


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        *(("localhost", None), ("ftp://host", None), ("http://[::1", None)),
        *(("http://host:99999", None), ("http://host:99999", "grpc")),
        ("http://host", "carrier pigeon"),
    ],
)
def test_an_endpoint_or_protocol_of_no_known_kind_is_refused(
    endpoint: str, protocol: str | None
) -> None:
    with pytest.raises(UsageError):
        otlp_exporter(endpoint, protocol)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
    ],
)
def test_a_variable_that_the_library_refuses_is_told_before_the_run(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match="Spans cannot be sent") as refused:
        otel_listener("http://127.0.0.1:4317", None, None)
    assert "OTEL_*" in str(refused.value)


def test_the_standard_switch_turns_spans_off(
    small_run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    listener = otel_listener(None, None, tmp_path / "spans.jsonl")
    for event in small_run:
        listener(event)
    listener.close()
    assert (tmp_path / "spans.jsonl").read_bytes() == b""


def test_no_attribute_holds_a_control_character() -> None:
    spans = spans_of(
        [
            ev.StageStarted(stage="dense", collection="a\x1b[2J\nb", model="m"),
            ev.StageFinished(
                stage="dense", collection="a\x1b[2J\nb", model="m", items=1, seconds=1
            ),
        ]
    )
    out = io.StringIO(str(dict(spans["rag.dense"].attributes or {})))
    assert "\\x1b" not in out.read()


def test_a_loan_is_an_event_of_the_span_that_held_the_card() -> None:
    stage = {"stage": "dense", "collection": "docs", "model": "m"}
    loan = {"stage": "dense", "model": "m", "device": "cuda:0", "cap_bytes": 12}
    figures = {"before_bytes": 1, "peak_bytes": 9}
    found = spans_of(
        [
            ev.StageStarted(at=1, **stage),
            ev.LeaseChanged(
                at=2,
                action="acquired",
                **loan,
                before_bytes=1,
                peak_bytes=1,
                after_bytes=1,
            ),
            ev.LeaseChanged(at=3, action="released", **loan, **figures, after_bytes=2),
            ev.StageFinished(at=4, **stage, items=1, seconds=3),
        ]
    )
    acquired, released = found["rag.dense"].events
    assert acquired.name == released.name == "rag.lease"
    assert acquired.attributes is not None
    assert acquired.attributes["rag.lease.action"] == "acquired"
    assert dict(released.attributes or {}) == {
        "rag.stage": "dense",
        "rag.model": "m",
        "rag.device": "cuda:0",
        "rag.lease.action": "released",
        "rag.gpu_cap_bytes": 12,
        "rag.gpu_before_bytes": 1,
        "rag.gpu_peak_bytes": 9,
        "rag.gpu_after_bytes": 2,
    }
