"""A run sends its spans to another process, which takes them, is down, slow or dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deploy_parts import (
    ROOT,
    free_port,
    parts_on_a_card,
    watched_config,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.parser import text_string_to_metric_families
from receiver_parts import Receiver, attributes, receiver

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.embed_run import run_embedding
from processor.ultimate_embedder.config import PipelineConfig, Provenance
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.settings import ReportingConfig, Settings
from processor.ultimate_embedder.telemetry import span_delivery
from processor.ultimate_embedder.telemetry.trace_ids import trace_id_of

STAGES = {
    "rag.chunk",
    "rag.dense",
    "rag.sparse",
    "rag.fusion",
    "rag.rerank",
    "rag.export",
}
EVERY_STAGE = {
    "rag.stage",
    "rag.collection",
    "rag.unit",
    "rag.items",
    "rag.device",
    "rag.batches",
    "rag.batch_size",
    "rag.fallback_used",
}
BESIDES = {
    "rag.dense": {"rag.model", "rag.tokens", "rag.gpu_peak_bytes"},
    "rag.sparse": {"rag.model", "rag.tokens"},
    "rag.fusion": {"rag.candidates"},
    "rag.rerank": {"rag.model", "rag.tokens", "rag.candidates", "rag.gpu_peak_bytes"},
}

Metrics = dict[tuple[str, ...], float]
Found = dict[str, list[dict[str, Any]]]


def embed(folder: Path, config: PipelineConfig, **reporting: Any) -> int:
    """Run the embed job as its command does, on a pretended GPU."""
    parts = parts_on_a_card(folder)
    return run_embedding(
        Settings(pipeline=config, reporting=ReportingConfig(**reporting)),
        style="json",
        dry_run=False,
        resume="the same command",
        make_runner=lambda *given: BatchRunner(*given, parts),
    )


def stages(found: Receiver) -> dict[str, list[Span]]:
    by_name: dict[str, list[Span]] = {}
    for span in found.spans:
        by_name.setdefault(span.name, []).append(span)
    return by_name


def log_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what went to standard error, every line of which has to be an object."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def told(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines if "being lost" in str(line)]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_each_stage_of_a_run_arrives_with_its_attributes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    config = watched_config(tmp_path)
    with receiver(tmp_path / "spans") as other:
        address = {"otlp_endpoint": other.endpoint(protocol), "otlp_protocol": protocol}
        assert embed(tmp_path, config, **address) == 0
        found = stages(other)
        (resource,) = {tuple(sorted(one.items())) for one in other.resources}
    (root,) = found.pop("rag.run")
    assert STAGES | {f"{name}.batch" for name in STAGES} == set(found)
    assert len(found["rag.dense"]) == len(config.dense)
    for name in STAGES:
        for span in found[name]:
            assert span.parent_span_id == root.span_id
            assert span.trace_id == root.trace_id
            assert span.status.code == Status.STATUS_CODE_UNSET
            assert EVERY_STAGE | BESIDES.get(name, set()) <= attributes(span).keys()
    for name in STAGES:
        parents = {span.span_id for span in found[name]}
        assert {span.parent_span_id for span in found[f"{name}.batch"]} <= parents
    assert {"service.name", "service.version", "telemetry.sdk.name"} <= {
        key for key, _ in resource
    }
    lines = log_lines(capsys)
    run_id = attributes(root)["rag.run_id"]
    assert root.trace_id.hex() == trace_id_of(run_id)
    first = [line["event"] for line in lines].index("run_started")
    assert {line["trace_id"] for line in lines[first:]} == {trace_id_of(run_id)}


@pytest.mark.parametrize("timeout", [None, 1e-9], ids=["reranked", "timed out"])
def test_figures_of_spans_and_metrics_are_those_of_the_manifest(
    tmp_path: Path, timeout: float | None
) -> None:
    config = replace(watched_config(tmp_path), rerank_timeout_seconds=timeout)
    textfile = tmp_path / "rag.prom"
    with receiver(tmp_path / "spans") as other:
        outputs = {"otlp_endpoint": other.endpoint(), "metrics_textfile": textfile}
        assert embed(tmp_path, config, **outputs) == 0
        found = {
            name: [attributes(span) for span in spans]
            for name, spans in stages(other).items()
        }
    manifest = Manifest.read(config.output_dir / "docs")
    metrics = samples(textfile)
    check_chunks(manifest, metrics, found)
    check_tokens(manifest, metrics, found)
    check_retrieval(manifest, metrics, found)


def check_chunks(manifest: Manifest, metrics: Metrics, found: Found) -> None:
    count, passes = manifest.chunk_count, len(manifest.dense_run)
    assert {span["rag.items"] for span in found["rag.dense"]} == {count}
    assert metrics["rag_chunks_total", "done", "dense"] == passes * count
    assert metrics["rag_chunks_total", "done", "export"] == count
    counts = manifest.conservation
    chunks, files = counts.chunks_aside, counts.files_aside
    assert metrics["rag_chunks_total", "quarantined", "read"] == chunks == 1
    assert metrics["rag_files_quarantined_total", "read"] == files == 1


def check_tokens(manifest: Manifest, metrics: Metrics, found: Found) -> None:
    spans = {span["rag.model"]: span for span in found["rag.dense"]}
    assert spans.keys() == {run.model for run in manifest.dense_run}
    for run in manifest.dense_run:
        embedded = metrics["rag_tokens_total", "embedded", run.model]
        assert spans[run.model]["rag.tokens"] == embedded == run.tokens
        padded = metrics["rag_tokens_total", "padded", run.model]
        assert padded / run.tokens == pytest.approx(run.padding_ratio, abs=1e-3)
        assert spans[run.model]["rag.gpu_peak_bytes"] == run.peak_bytes


def check_retrieval(manifest: Manifest, metrics: Metrics, found: Found) -> None:
    rerank, fusion = manifest.rerank_run, manifest.fusion_run
    assert rerank is not None
    assert rerank.status == "ran"
    assert fusion is not None
    (span,) = found["rag.rerank"]
    assert span["rag.fallback_used"] == rerank.fallback_used
    assert span.get("rag.fallback_reason") == rerank.fallback_reason
    counted = metrics.get(("rag_fallback_total", "timeout", "rerank"), 0)
    assert counted == rerank.fallback_used
    assert span["rag.gpu_peak_bytes"] == rerank.peak_bytes
    candidates = metrics["rag_candidate_count", "rerank"]
    assert span["rag.candidates"] == candidates == rerank.candidates
    fused = metrics["rag_candidate_count", "fusion"]
    assert found["rag.fusion"][-1]["rag.candidates"] == fused == fusion.candidates


def test_a_disabled_stage_is_named_with_its_layer_and_has_no_figures(
    tmp_path: Path,
) -> None:
    config = replace(
        watched_config(tmp_path),
        enable_rerank=False,
        provenance=(
            Provenance(
                key="enable_rerank",
                value="no",
                source="--disable-rerank",
                layer="command line",
            ),
        ),
    )
    textfile = tmp_path / "rag.prom"
    with receiver(tmp_path / "spans") as other:
        outputs = {"otlp_endpoint": other.endpoint(), "metrics_textfile": textfile}
        assert embed(tmp_path, config, **outputs) == 0
        found = stages(other)
    assert not [name for name in found if name.startswith("rag.rerank")]
    (run,) = found["rag.run"]
    (skipped,) = [event for event in run.events if event.name == "rag.stage_skipped"]
    assert attributes(skipped) == {
        "rag.stage": "rerank",
        "rag.collection": "docs",
        "rag.reason": "disabled",
        "rag.layer": "command line",
    }
    metrics = samples(textfile)
    assert metrics["rag_stage_info", "command line", "rerank", "disabled"] == 1
    told = {values for values in metrics if "rerank" in str(values)}
    assert told == {("rag_stage_info", "command line", "rerank", "disabled")}


def samples(textfile: Path) -> Metrics:
    """Return samples by name and the values of their labels, in the order of these."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(textfile.read_text("utf-8"))
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("trouble", "protocol"),
    [
        ("down", "http/protobuf"),
        ("slow", "http/protobuf"),
        ("dies", "grpc"),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in (
                ("refuses", "http/protobuf"),
                ("dies", "http/protobuf"),
                ("down", "grpc"),
                ("slow", "grpc"),
                ("refuses", "grpc"),
            )
        ),
    ],
)
def test_a_receiver_in_trouble_is_told_once_and_holds_nothing_up(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    protocol: str,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(span_delivery, "PATIENCE_SECONDS", 0.4)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # spans leave during the run
    options = {
        "slow": ("--wait", "3600"),
        "dies": ("--dies-at", "2"),
        "refuses": ("--refuses",),
    }
    config = watched_config(tmp_path)
    with receiver(tmp_path / "spans", *options.get(trouble, ())) as other:
        address = other.endpoint(protocol)
        if trouble == "down":
            address = f"http://127.0.0.1:{free_port()}"
        code = embed(tmp_path, config, otlp_endpoint=address, otlp_protocol=protocol)
        answered = (other.folder / "answered").exists()
        taken = len(other.requests)
    assert code == 0
    assert answered == (trouble in ("refuses", "dies")), "nobody waits for an answer"
    if trouble == "dies":
        assert taken == 2, "it dies in the middle"
    assert Manifest.read(config.output_dir / "docs").chunk_count > 0
    (message,) = told(log_lines(capsys))
    assert message.startswith(f"Spans are being lost at {address}: ")
    assert trouble != "down" or message.endswith(": connection refused")
    assert caplog.records == [], "the SDK's remarks are not repeated"


@pytest.mark.slow
def test_a_default_run_of_the_command_has_a_span_for_each_stage(tmp_path: Path) -> None:
    place = tmp_path / "Chunked" / "docs"
    place.mkdir(parents=True)
    chunks = [
        {"text": text} for text in ("How vectors are stored.", "What filters do.")
    ]
    (place / "a_chunks.json").write_text(json.dumps(chunks))
    (tmp_path / "asked.jsonl").write_text('{"_id": "q", "text": "filters"}\n')
    script = ROOT / "scripts" / "embed_collections_v6.py"
    with receiver(tmp_path / "spans") as other:
        done = subprocess.run(
            [sys.executable, str(script), "--queries", "asked.jsonl"],
            cwd=tmp_path,
            env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": other.endpoint()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = stages(other)
    for name in STAGES:
        for span in found[name]:
            wanted = EVERY_STAGE | BESIDES.get(name, set()) - {"rag.gpu_peak_bytes"}
            assert wanted <= attributes(span).keys(), name


def test_a_file_is_whole_although_the_receiver_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_delivery, "PATIENCE_SECONDS", 0.4)
    config, file = watched_config(tmp_path), tmp_path / "spans.jsonl"
    nobody = f"http://127.0.0.1:{free_port()}"
    assert embed(tmp_path, config, otlp_endpoint=nobody, otlp_file=file) == 0
    names = Counter(
        span["name"]
        for line in file.read_text("utf-8").splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    )
    assert STAGES | {"rag.run"} <= names.keys()
