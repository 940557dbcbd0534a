"""A bundle that is what a run would make is proved by its sums and left alone."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner, RunOutcome
from processor.ultimate_embedder.config import PipelineConfig, RerankingConfig
from processor.ultimate_embedder.encoders.protocols import (
    AttentionEncoder,
    PairScorer,
)
from processor.ultimate_embedder.errors import ModelError, ModelNotAvailable
from processor.ultimate_embedder.intake.chunks import find_collections
from processor.ultimate_embedder.intake.measure import measure_collection
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.run.up_to_date import run_facts
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    CollectionFinished,
    StageStarted,
    WorkRedone,
    silent,
)
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process

Run = Callable[..., tuple[RunOutcome, RecordingListener]]


def write_chunks(root: Path, texts: list[str]) -> None:
    folder = root / "chunked" / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {"text": text, "metadata": {"filename": f"{number}.md"}}
        for number, text in enumerate(texts)
    ]
    (folder / "all_chunks.json").write_text(json.dumps(entries))


def config_of(root: Path, **changes: Any) -> PipelineConfig:
    config = PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"),),
        enable_rerank=False,
        offline=True,
    )
    return replace(config, **changes)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_chunks(tmp_path, [f"# On {word}\n\nAll of it." for word in ("ab", "cd")])

    def go(
        parts: Parts | None = None, **changes: Any
    ) -> tuple[RunOutcome, RecordingListener]:
        heard = RecordingListener()
        runner = BatchRunner(
            config_of(tmp_path, **changes),
            heard,
            "run-1",
            parts or hashing_parts(),
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


def why_anew(heard: RecordingListener) -> list[str]:
    return [one.reason for one in heard.of(WorkRedone) if isinstance(one, WorkRedone)]


def models_in(outcome: RunOutcome) -> list[str]:
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    return [made.model for made in manifest.dense_run or ()]


def parts_without(name: str) -> Parts:
    """Return parts where the passes of one dense model fail."""
    whole = hashing_parts()

    @contextmanager
    def failing(job: EncodeJob) -> Iterator[AttentionEncoder]:
        if job.model.name == name:
            raise ModelError("Its weights cannot be loaded.")
        with whole.models.resident(job.model) as encoder:
            yield encoder

    return replace(whole, open_executor=in_process(failing))


def test_a_bundle_without_a_model_that_was_skipped_is_made_anew(run: Run) -> None:
    first = dense_model("all-miniLM-l6")
    dense = (first, replace(first, name="second"))
    fails = parts_without("second")
    outcome, _ = run(fails, dense=dense, skip_failed_models=True)
    assert models_in(outcome) == ["all-miniLM-l6"]

    again, heard = run(fails, dense=dense, skip_failed_models=True)
    assert again.exit_code == 0
    assert why_anew(heard) == ["model second was skipped"]
    assert models_in(again) == ["all-miniLM-l6"]

    outcome, heard = run(dense=dense)
    assert not left_alone(heard)
    assert models_in(outcome) == ["all-miniLM-l6", "second"]
    _, heard = run(dense=dense)
    assert left_alone(heard)


def test_attention_that_was_skipped_makes_it_anew(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "chunked" / "docs" / "all_chunks.json"
    terms = {"sparse_features": {"term_weights": {"zebra": 0.5}}}
    path.write_text(json.dumps([{"text": "A zebra.", "metadata": terms}]))
    changes = {
        "dense": (replace(dense_model("all-miniLM-l6"), name="other"),),
        "sparse": (sparse_model("qdrant-minilm-attention"),),
        "skip_failed_models": True,
    }
    run(parts_without("all-miniLM-l6"), **changes)
    _, heard = run(**changes)
    assert not left_alone(heard)
    _, heard = run(**changes)
    assert left_alone(heard)


RERANKER = RerankingConfig(name="words", hf_model_id="nobody/words", top_k=5)


def test_a_local_reranker_with_other_weights_makes_it_anew(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"first")
    changes = {
        "enable_rerank": True,
        "rerank": replace(RERANKER, hf_model_id=str(folder)),
    }
    run(**changes)
    _, heard = run(**changes)
    assert left_alone(heard)
    (folder / "model.safetensors").write_bytes(b"the second")
    _, heard = run(**changes)
    assert why_anew(heard) == ["reranker changed"]


def test_models_that_are_not_here_have_facts(run: Run, tmp_path: Path) -> None:
    """The run says later what it lacks, and what would help."""
    config = config_of(
        tmp_path,
        sparse=(sparse_model("splade-v3"),),
        enable_rerank=True,
        rerank=RERANKER,
    )
    collection = measure_collection(
        find_collections(config.chunked_dir)[0],
        config.dense,
        hashing_parts().models,
        tmp_path / "work",
        silent,
    )
    facts = run_facts(
        config, collection, device="cpu", dtype="float32", redact_key=None
    )
    assert {"splade", "reranker"} <= set(facts)


def test_a_reranker_that_had_nothing_to_do_leaves_it_alone(run: Run) -> None:
    changes = {"enable_rerank": True, "rerank": RERANKER, "probes": False}
    run(**changes)
    _, heard = run(**changes)
    assert left_alone(heard)


def test_a_reranker_that_was_not_here_is_asked_again(run: Run, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "a", "text": "what is ab"}\n')

    def load(_: RerankingConfig) -> PairScorer:
        raise ModelNotAvailable("Its weights are not here.")

    changes = {"enable_rerank": True, "rerank": RERANKER, "queries": queries}
    without = replace(hashing_parts(), load_scorer=load)
    run(without, **changes)
    _, heard = run(without, **changes)
    assert not left_alone(heard)
    _, heard = run(**changes)
    assert not left_alone(heard)
    _, heard = run(**changes)
    assert left_alone(heard)


@pytest.mark.parametrize(
    "name",
    [
        "numpy",
        "torch",
        "tokenizers",
        "onnxruntime",
        "py-rust-stemmers",
        "mmh3",
        "faiss-cpu",
        "orjson",
    ],
)
def test_another_version_of_a_library_makes_it_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run()
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda asked: "0.0" if asked == name else version(asked),
    )
    _, heard = run()
    assert "libraries changed" in why_anew(heard)
    _, heard = run()
    assert left_alone(heard)


def test_a_library_that_is_not_installed_stops_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without(asked: str) -> str:
        if asked in ("onnxruntime", "ultimate-embedder"):  # an extra; a bare checkout
            raise importlib.metadata.PackageNotFoundError(asked)
        return version(asked)

    monkeypatch.setattr(importlib.metadata, "version", without)
    outcome, _ = run()
    assert outcome.exit_code == 0
    _, heard = run()
    assert left_alone(heard)
