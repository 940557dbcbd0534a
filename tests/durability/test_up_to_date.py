"""A bundle that is what a run would make is proved by its sums and left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner, RunOutcome
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    CollectionFinished,
    StageStarted,
)
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts

Run = Callable[..., tuple[RunOutcome, RecordingListener]]


def write_chunks(root: Path, texts: list[str]) -> None:
    folder = root / "chunked" / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {"text": text, "metadata": {"filename": f"{number}.md"}}
        for number, text in enumerate(texts)
    ]
    (folder / "all_chunks.json").write_text(json.dumps(entries))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_chunks(tmp_path, [f"# On {word}\n\nAll of it." for word in ("ab", "cd")])

    def go(**changes: Any) -> tuple[RunOutcome, RecordingListener]:
        config = PipelineConfig(
            chunked_dir=tmp_path / "chunked",
            output_dir=tmp_path / "out",
            dense=(dense_model("all-miniLM-l6"),),
            sparse=(sparse_model("qdrant-bm25"),),
            enable_rerank=False,
            offline=True,
        )
        heard = RecordingListener()
        runner = BatchRunner(
            replace(config, **changes),
            heard,
            "run-1",
            hashing_parts(),
            leave_up_to_date=True,
        )
        return runner.run(), heard

    return go


def left_alone(heard: RecordingListener) -> bool:
    (end,) = heard.of(CollectionFinished)
    assert isinstance(end, CollectionFinished)
    return end.up_to_date


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted((root / "out" / "docs").rglob("*"))
        if path.is_file()
    }


def test_the_second_run_changes_nothing_and_computes_nothing(
    run: Run, tmp_path: Path
) -> None:
    _, first = run()
    assert not left_alone(first)
    before = files(tmp_path)
    outcome, heard = run()
    assert outcome.exit_code == 0
    assert left_alone(heard)
    assert files(tmp_path) == before
    assert {one.stage for one in heard.of(StageStarted)} == {"read"}
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.chunk_count == 2


@pytest.mark.parametrize(
    "change",
    [
        {"enable_sparse": False},
        {"exports": ("npy", "jsonl")},
        {"jsonl_layout": "simple"},
        {"seed": 5},
        {"probes": False},
        {"long_texts": "cut"},
        {"redact_queries": True},
        {"resume": False},
    ],
)
def test_what_other_settings_made_is_made_anew(
    run: Run, change: dict[str, Any]
) -> None:
    run()
    _, heard = run(**change)
    assert not left_alone(heard)


def test_settings_that_decide_no_byte_leave_it_alone(run: Run) -> None:
    run()
    _, heard = run(rerank_timeout_seconds=5.0, skip_failed_models=True)
    assert left_alone(heard)


def test_other_chunks_or_metadata_make_it_anew(run: Run, tmp_path: Path) -> None:
    run()
    path = tmp_path / "chunked" / "docs" / "all_chunks.json"
    entries = json.loads(path.read_text())
    entries[0]["metadata"]["author"] = "somebody"
    path.write_text(json.dumps(entries))
    _, heard = run()
    assert not left_alone(heard)
    assert not heard.of(BatchFinished) or {
        one.stage for one in heard.of(BatchFinished)
    } <= {"read", "sparse", "fusion", "export"}  # no text changed: no vector anew


def test_queries_that_changed_make_it_anew(run: Run, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "a", "text": "what is ab"}\n')
    run(queries=queries)
    _, heard = run(queries=queries)
    assert left_alone(heard)
    queries.write_text('{"_id": "a", "text": "what is cd"}\n')
    _, heard = run(queries=queries)
    assert not left_alone(heard)


def test_any_damaged_file_is_made_anew(run: Run, tmp_path: Path) -> None:
    run()
    whole = {name: content for name, (_, content) in files(tmp_path).items()}
    bundle = tmp_path / "out" / "docs"
    for path in sorted(bundle.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        _, heard = run()
        assert not left_alone(heard), path.name
        now = {name: content for name, (_, content) in files(tmp_path).items()}
        for name, content in whole.items():
            if name != "processing_summary.json":
                assert now[name] == content or name == "SHA256SUMS", name


def test_a_file_that_is_gone_is_made_anew(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "out" / "docs" / "docs_ids.jsonl").unlink()
    _, heard = run()
    assert not left_alone(heard)
    assert (tmp_path / "out" / "docs" / "docs_ids.jsonl").is_file()
