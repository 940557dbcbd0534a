"""Spans in a file are what the official package makes of the same spans."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.telemetry import events as ev
from processor.ultimate_embedder.telemetry.otel import OtelListener
from processor.ultimate_embedder.telemetry.otlp_file import (
    OtlpFileExporter,
    traces_data,
)

IDS = ("traceId", "spanId", "parentSpanId")


def all_kinds(small_run: list[ev.Event]) -> list[ReadableSpan]:
    """Spans with events, errors, lists, numbers and truths among their attributes."""
    exporter = InMemorySpanExporter()
    listener = OtelListener({"memory": exporter})
    cut_short = ev.StageStarted(stage="sparse", collection="b", model="ö 😀")
    skipped = ev.StageSkipped(
        stage="rerank", collection="docs", reason="disabled", layer="command line"
    )
    for event in (*small_run[:-1], skipped, cut_short, small_run[-1]):
        listener(event)
    listener.close()
    return list(exporter.get_finished_spans())


def as_protobuf_has_ids(document: Any) -> Any:
    """OTLP writes ids in hexadecimal; protobuf's own JSON in base64."""
    if isinstance(document, list):
        return [as_protobuf_has_ids(one) for one in document]
    if not isinstance(document, dict):
        return document
    return {
        key: base64.b64encode(bytes.fromhex(value)).decode()
        if key in IDS
        else as_protobuf_has_ids(value)
        for key, value in document.items()
    }


def test_a_line_reads_back_as_what_the_official_encoder_makes(
    small_run: list[ev.Event],
) -> None:
    spans = all_kinds(small_run)
    document = json.loads(orjson.dumps(traces_data(spans)))
    read = json_format.ParseDict(as_protobuf_has_ids(document), TracesData())
    expected = TracesData(resource_spans=encode_spans(spans).resource_spans)
    assert len(expected.resource_spans[0].scope_spans[0].spans) > 8
    assert read == expected


def test_a_second_run_is_appended(small_run: list[ev.Event], tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    for _ in range(2):
        listener = OtelListener({"file": OtlpFileExporter(path)})
        for event in small_run:
            listener(event)
        listener.close()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert list(json.loads(line)) == ["resourceSpans"]


@pytest.mark.timeout(20)
def test_a_pipe_is_written_to_if_somebody_reads_and_refused_otherwise(
    small_run: list[ev.Event], tmp_path: Path
) -> None:
    path = tmp_path / "spans"
    os.mkfifo(path)
    with pytest.raises(UsageError, match="nobody reads from that pipe"):
        OtlpFileExporter(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        exporter = OtlpFileExporter(path)
        exporter.export(all_kinds(small_run)[:1])
        exporter.shutdown()
        assert list(json.loads(os.read(reader, 65536))) == ["resourceSpans"]
    finally:
        os.close(reader)
