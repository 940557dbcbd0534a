"""From chunk files to a searched and verified bundle, with a tiny SPLADE model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from masked_lm_parts import encoder_of, save_masked_lm

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.errors import ModelError, ModelNotAvailable
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.hardware import this_machine
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.models.choice import choose_sparse
from processor.ultimate_embedder.records import SparseVector
from processor.ultimate_embedder.search.bundle import open_bundle
from processor.ultimate_embedder.telemetry.events import FallbackUsed, WorkRedone
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts
from processor.ultimate_embedder.verify.bundle import verify_bundle

TEXTS = [
    f"## Page {n}\n\nSharding of node {n * 37} explained, part {n}." for n in range(9)
]


def dot(one: SparseVector, other: SparseVector) -> float:
    values = dict(zip(other.indices.tolist(), other.values.tolist(), strict=True))
    pairs = zip(one.indices.tolist(), one.values.tolist(), strict=True)
    return sum(value * values.get(index, 0.0) for index, value in pairs)


def config(root: Path, *sparse: str, **changes: object) -> PipelineConfig:
    chunks = root / "chunked" / "docs" / "guide"
    chunks.mkdir(parents=True, exist_ok=True)
    (chunks / "a_chunks.json").write_text(json.dumps([{"text": t} for t in TEXTS]))
    return replace(
        PipelineConfig(
            chunked_dir=root / "chunked",
            output_dir=root / "out",
            dense=(dense_model("all-miniLM-l6"),),
            sparse=tuple(choose_sparse(value) for value in sparse),
            enable_rerank=False,
            offline=True,
        ),
        **changes,
    )


def run(
    pipeline: PipelineConfig, *, leave_up_to_date: bool = False
) -> tuple[Path, RecordingListener]:
    heard = RecordingListener()
    runner = BatchRunner(
        pipeline, heard, "run-1", hashing_parts(), leave_up_to_date=leave_up_to_date
    )
    [outcome] = runner.run().collections
    assert outcome.error is None
    return pipeline.output_dir / "docs", heard


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_bundle_with_splade_vectors_is_built_searched_and_verified(
    tmp_path: Path, family: str
) -> None:
    folder = save_masked_lm(tmp_path / "models" / "tiny-splade", family)
    bundle, heard = run(config(tmp_path, str(folder)))
    assert not heard.of(FallbackUsed)
    manifest = Manifest.read(bundle)
    [record] = manifest.sparse_run or ()
    assert (record.sparse_model, record.fallback_used) == ("tiny-splade", False)
    assert verify_bundle(bundle).whole

    encoder = encoder_of(folder, dtype=this_machine().cpu_dtype)
    documents = encoder.encode_documents(TEXTS)
    with (bundle / "docs_sparse.jsonl").open() as lines:
        for line, vector in zip(map(json.loads, lines), documents, strict=True):
            stored = line["tiny-splade"]
            assert stored["indices"] == vector.indices.tolist()
            assert np.float32(stored["values"]).tobytes() == vector.values.tobytes()

    question = encoder.encode_query("sharding of node 37")
    scores = [dot(question, vector) for vector in documents]
    with open_bundle(bundle, offline=True) as opened:
        hits = opened.search("sharding of node 37", top_k=3, stage="sparse")
    assert [hit.score for hit in hits] == pytest.approx(
        sorted(scores)[:-4:-1], rel=1e-4
    )
    best = int(np.argmax(scores))
    assert hits[0].text == TEXTS[best]


def test_a_bundle_of_other_local_weights_is_not_up_to_date(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "models" / "tiny-splade", "bert")
    pipeline = config(tmp_path, str(folder))
    run(pipeline)
    _, heard = run(pipeline, leave_up_to_date=True)
    assert not heard.of(WorkRedone)
    save_masked_lm(folder, "distilbert")
    _, heard = run(pipeline, leave_up_to_date=True)
    assert "splade changed" in [redone.reason for redone in heard.of(WorkRedone)]


def test_a_model_that_is_not_here_stops_the_run_before_any_work(tmp_path: Path) -> None:
    pipeline = replace(config(tmp_path), sparse=(sparse_model("splade-v3"),))
    with pytest.raises(ModelNotAvailable, match="splade-v3"):
        run(pipeline)


def test_a_model_that_is_not_here_is_left_out_where_that_is_allowed(
    tmp_path: Path,
) -> None:
    sparse = (sparse_model("qdrant-bm25"), sparse_model("splade-v3"))
    pipeline = replace(config(tmp_path), sparse=sparse, skip_failed_models=True)
    bundle, _ = run(pipeline)
    manifest = Manifest.read(bundle)
    assert [r.sparse_model for r in manifest.sparse_run or ()] == ["qdrant-bm25"]
    assert any("splade-v3 is skipped" in warning for warning in manifest.warnings)


def test_a_folder_without_a_masked_lm_is_no_sparse_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ModelError, match="names no masked language model"):
        choose_sparse(str(tmp_path))
