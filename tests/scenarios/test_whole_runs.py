"""What an outsider sees of a whole run, with doubles in place of model weights."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.models.catalogue import (
    KAGGLE_OPTIMIZED_MODELS,
    RERANKING_MODELS,
    SPARSE_MODELS,
)
from processor.ultimate_embedder.telemetry.events import Event, Listener, fan_out
from processor.ultimate_embedder.telemetry.logs import LogListener
from processor.ultimate_embedder.telemetry.otel import OtelListener
from processor.ultimate_embedder.telemetry.otlp_file import OtlpFileExporter
from processor.ultimate_embedder.telemetry.prometheus import PrometheusListener
from processor.ultimate_embedder.testing import hashing_parts

COMPANION = replace(
    KAGGLE_OPTIMIZED_MODELS["all-miniLM-l6"], name="companion", vector_dim=32
)
MARKER = "xylophonequartz"
SECTIONS = ("Snapshots", "Sharding", "Payload indexes", "Quantization", "Aliases")


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    """Two source subdirectories with sections that can be asked for by heading."""
    for folder in ("guides", "reference"):
        place = tmp_path / "Chunked" / "docs" / folder
        place.mkdir(parents=True)
        chunks = [
            {
                "text": f"# {title} in the {folder}\n\n{MARKER} {number} explains how "
                f"{title.lower()} are made, kept and removed by the {folder}.",
                "metadata": {"note": f"{MARKER} {number}"},
            }
            for number, title in enumerate(SECTIONS)
        ]
        (place / "page_chunks.json").write_text(json.dumps(chunks), encoding="utf-8")
    return PipelineConfig(
        chunked_dir=tmp_path / "Chunked",
        output_dir=tmp_path / "out",
        dense=(KAGGLE_OPTIMIZED_MODELS["all-miniLM-l6"],),
        sparse=(SPARSE_MODELS["qdrant-bm25"], SPARSE_MODELS["qdrant-minilm-attention"]),
        rerank=RERANKING_MODELS["ms-marco-minilm-l6"],
        offline=True,
    )


def run(config: PipelineConfig, *listeners: Listener) -> Path:
    """Run to exit code 0 and return the bundle."""
    runner = BatchRunner(config, fan_out(listeners), "run-1", hashing_parts())
    outcome = runner.run()
    (collection,) = outcome.collections
    assert (outcome.exit_code, collection.error) == (0, None)
    assert collection.bundle is not None
    return collection.bundle


def sums(bundle: Path, *patterns: str) -> dict[str, str]:
    """Return the SHA-256 of the files that match, by path in the bundle."""
    return {
        str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in bundle.rglob(pattern)
        if path.is_file()
    }


def points(bundle: Path) -> list[dict[str, object]]:
    lines = (bundle / "docs_qdrant.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_without_sparse_and_rerank_their_files_and_sections_are_absent(
    config: PipelineConfig, tmp_path: Path
) -> None:
    full = run(config)
    off = replace(
        config,
        enable_sparse=False,
        enable_rerank=False,
        output_dir=tmp_path / "off",
    )
    bare = run(off)
    manifest = Manifest.read(bare)
    assert (manifest.sparse_run, manifest.rerank_run) == (None, None)
    left = {path.name for path in bare.rglob("*")}
    assert not [name for name in left if "sparse" in name or "postings" in name]
    assert (full / "docs_rerank.jsonl").is_file()
    assert "docs_rerank.jsonl" not in left
    same = ("*.npy", "*.faiss", "*_ids.jsonl")
    assert sums(bare, *same).items() <= sums(full, *same).items()
    for with_all, dense_only in zip(points(full), points(bare), strict=True):
        kept = {"all-miniLM-l6": with_all["vector"]["all-miniLM-l6"]}  # type: ignore[index]
        assert dense_only == {**with_all, "vector": kept}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (
            {"enable_rerank": False},
            ("*.npy", "*.faiss", "*_ids*", "*_qdrant*", "*_sp*"),
        ),
        ({"enable_sparse": False}, ("*_embeddings.npy", "*.faiss", "*_ids.jsonl")),
        ({"dense": ()}, ("*all-miniLM-l6*", "*_ids.jsonl", "*_sparse.jsonl")),
    ],
    ids=["rerank off", "sparse off", "companion off"],
)
def test_switching_a_stage_off_changes_no_byte_of_the_others(
    config: PipelineConfig,
    tmp_path: Path,
    change: dict[str, object],
    kept: Sequence[str],
) -> None:
    full = run(replace(config, dense=(*config.dense, COMPANION)))
    if "dense" in change:
        change = {"dense": config.dense}
    else:
        change = {**change, "dense": (*config.dense, COMPANION)}
    other = run(replace(config, output_dir=tmp_path / "other", **change))  # type: ignore[arg-type]
    assert sums(other, *kept) == sums(full, *kept) != {}


def test_no_span_metric_or_log_line_holds_text_of_a_chunk(
    config: PipelineConfig, tmp_path: Path
) -> None:
    log = io.StringIO()
    listeners = (
        LogListener(stream=log, log_format="json", level="debug"),
        PrometheusListener(tmp_path / "run.prom"),
        OtelListener({"file": OtlpFileExporter(tmp_path / "spans.jsonl")}),
    )
    bundle = run(config, *listeners)
    for listener in listeners:
        listener.close()
    told = [
        log.getvalue(),
        (tmp_path / "run.prom").read_text(encoding="utf-8"),
        (tmp_path / "spans.jsonl").read_text(encoding="utf-8"),
    ]
    assert MARKER in (bundle / "docs_qdrant.jsonl").read_text(encoding="utf-8")
    for text in told:
        assert "rag" in text or "docs" in text
        assert MARKER not in text.lower()
        assert not [title for title in SECTIONS if title in text]


def test_a_listener_that_fails_is_reported_once_and_stops_nothing(
    config: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def broken(event: Event) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("no longer listening")

    heard: list[Event] = []
    run(config, broken, heard.append)
    assert calls == 1
    assert len(heard) > 1
    (record,) = caplog.records
    assert "listener failed" in record.getMessage()
    assert "broken" in record.getMessage()
