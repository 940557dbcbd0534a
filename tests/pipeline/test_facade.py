"""The Python surface: the names and calls of earlier scripts, on the real model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_parts import write_collection

import processor.ultimate_embedder as package
from processor.kaggle_ultimate_embedder_v4 import (
    UltimateKaggleEmbedderV4 as OldPath,
)
from processor.ultimate_embedder import KaggleGPUConfig, UltimateKaggleEmbedderV4
from processor.ultimate_embedder.batch_runner import RunOutcome
from processor.ultimate_embedder.errors import UnknownModel, UsageError
from processor.ultimate_embedder.run.parts import CollectionOutcome


def test_public_names_exist_and_are_those_stated() -> None:
    assert set(package.__all__) == {
        "BatchRunner",
        "CrossEncoderBatchExecutor",
        "ExportRuntime",
        "KAGGLE_OPTIMIZED_MODELS",
        "KaggleGPUConfig",
        "ModelConfig",
        "ModelManager",
        "RERANKING_MODELS",
        "RerankPipeline",
        "RerankingConfig",
        "SPARSE_MODELS",
        "SparseVectorGenerator",
        "UltimateKaggleEmbedderV4",
    }
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert OldPath is UltimateKaggleEmbedderV4


def test_load_generate_export_gives_vectors_by_model_and_row(tmp_path: Path) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=2)
    embedder = UltimateKaggleEmbedderV4(
        model_name="all-miniLM-l6",
        companion_dense_models=[],
        enable_sparse=True,
        sparse_models=["qdrant-bm25"],
        gpu_config=KaggleGPUConfig(backend="cpu", base_batch_size=8, workers=1),
        output_dir=tmp_path / "out",
        offline=True,
    )
    assert embedder.load_chunks_from_processing(tmp_path / "chunked") == {"docs": 2}
    manifests = embedder.generate_embeddings_kaggle_optimized()
    assert manifests["docs"].chunk_count == 12
    vectors = embedder.embeddings_by_model["all-miniLM-l6"]
    assert vectors.shape == (12, 384)
    assert not vectors.flags.writeable
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(embedder.sparse_vectors) == 12
    assert len(embedder.sparse_vectors[0]["qdrant-bm25"]) > 5
    (copied,) = embedder.export_for_local_qdrant(tmp_path / "copy")
    assert (copied / "docs_qdrant.jsonl").is_file()
    with pytest.raises(UsageError, match="Nothing is copied over"):
        embedder.export_for_local_qdrant(tmp_path / "copy")


@pytest.fixture
def embedded(tmp_path: Path) -> UltimateKaggleEmbedderV4:
    """Return an embedder that has made two bundles, of a file each."""
    outcomes = []
    for name in ("docs", "more"):
        bundle = tmp_path / "out" / name
        bundle.mkdir(parents=True)
        (bundle / "processing_summary.json").write_text(name)
        outcomes.append(CollectionOutcome(name=name, bundle=bundle))
    embedder = UltimateKaggleEmbedderV4(output_dir=tmp_path / "out", offline=True)
    embedder._outcome = RunOutcome(exit_code=0, collections=tuple(outcomes))
    return embedder


@pytest.mark.parametrize("whole", [0, 1])
def test_an_interrupted_copy_is_in_nobodys_way(
    embedded: UltimateKaggleEmbedderV4,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: int,
) -> None:
    target = tmp_path / "copy"
    real, done = shutil.copytree, 0

    def interrupted(*given: Any, **named: Any) -> object:
        nonlocal done
        done += 1
        real(*given, **named)
        if done > whole:
            raise KeyboardInterrupt
        return given[1]

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embedded.export_for_local_qdrant(target)
    assert list(target.iterdir()) == []
    copies = embedded.export_for_local_qdrant(target)
    assert copies == [target / "docs", target / "more"]
    told = [(copy / "processing_summary.json").read_text() for copy in copies]
    assert told == ["docs", "more"]


def test_a_copy_that_was_killed_is_cleared_away(
    embedded: UltimateKaggleEmbedderV4, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    half = target / f".staging-docs-{'0' * 16}"
    half.mkdir(parents=True)
    (half / "docs_ids.jsonl").touch()
    embedded.export_for_local_qdrant(target)
    assert sorted(path.name for path in target.iterdir()) == ["docs", "more"]


def test_an_unknown_model_lists_those_known() -> None:
    with pytest.raises(UnknownModel, match=r"no-such.*Known: .*all-miniLM-l6"):
        UltimateKaggleEmbedderV4(model_name="no-such")


def test_reading_results_before_a_run_says_what_to_call() -> None:
    with pytest.raises(UsageError, match="generate_embeddings_kaggle_optimized"):
        _ = UltimateKaggleEmbedderV4().embeddings_by_model
