"""The real models behind a bundle: embedded MiniLM, BM25 and BM42 queries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from search_parts import ListStore, bm25_matrix, make_chunks

from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    DenseRun,
    FusionRun,
    RerankRan,
)
from processor.ultimate_embedder.export.runtime import ExportRuntime
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import Float32Array, SparseInferenceRun
from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.search.loading import ManifestEncoders

MINILM = dense_model("all-miniLM-l6")
TEXTS = [
    ("zoo", "The walrus sleeps on the ice of the northern sea.", 0),
    ("shop", "Invoices are paid within thirty days of delivery.", 1),
    ("zoo", "Parrots repeat the words that they hear every day.", 2),
]


def dense_run(**changes: object) -> DenseRun:
    fields = {
        "model": MINILM.name,
        "hf_model_id": MINILM.hf_model_id,
        "dimension": MINILM.vector_dim,
        "dtype": "float32",
        "max_tokens": MINILM.max_tokens,
        "chunks": 3,
        "tokens": 30,
        "seconds": 0.0,
        "device": "cpu",
    }
    return DenseRun(**{**fields, **changes})


def sparse_run(model: str, kind: str, **changes: object) -> SparseInferenceRun:
    return SparseInferenceRun(
        run_id="r",
        latency_ms=0.0,
        sparse_model=model,
        coverage=1.0,
        statistics={"kind": kind, "profile": "qdrant-word"},
        **changes,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Export three texts with MiniLM's own vectors."""
    store = ListStore(make_chunks(TEXTS))
    texts = [chunk.text for chunk in store]
    manager = ModelManager(offline=True)
    with manager.resident(MINILM) as encoder:
        vectors = encoder.encode(
            manager.tokenizer(MINILM).encode(texts, "document").ids
        )
    matrices = {"qdrant-bm25": bm25_matrix(texts)}
    with ExportRuntime(tmp_path, "docs") as export:
        export.write_ids(store)
        export.write_dense(MINILM.name, vectors)
        export.write_sparse(matrices, {"qdrant-bm25": 5.0})
        export.write_points(store, {MINILM.name: vectors}, matrices)
        return export.publish(
            Manifest(
                collection="docs",
                chunk_count=3,
                dense_run=(dense_run(),),
                sparse_run=(sparse_run("qdrant-bm25", "bm25"),),
                fusion_run=FusionRun(
                    method="rrf",
                    parameters={"expression": "rrf(k=10, weights=2:1)"},
                    legs=(MINILM.name, "qdrant-bm25"),
                ),
            )
        )


def test_a_question_without_a_shared_word_is_answered_by_the_models_own_vectors(
    bundle: Path,
) -> None:
    with open_bundle(bundle, offline=True) as opened:
        dense = opened.search("When must a bill be settled?", stage="dense")
        assert dense[0].row == 1
        exact = opened.search(TEXTS[2][1], stage="dense")[0]
        assert (exact.row, exact.score) == (2, pytest.approx(1.0, abs=1e-3))
        assert opened.search("walruses", stage="sparse")[0].row == 0


def test_the_fusion_of_the_manifest_is_the_one_that_is_used(bundle: Path) -> None:
    with open_bundle(bundle, offline=True) as opened:
        hit = opened.search("walruses that sleep")[0]
    expected = 2 / (10 + hit.stages["dense"].rank) + 1 / (
        10 + hit.stages["sparse"].rank
    )
    assert (hit.row, hit.score) == (0, pytest.approx(expected))


def test_queries_for_attention_vectors_are_made_with_minilms_tokenizer() -> None:
    run = sparse_run("qdrant-minilm-attention", "attention")
    manifest = Manifest(collection="docs", chunk_count=1, sparse_run=(run,))
    vector = ManifestEncoders(manifest, offline=True).sparse("sleeping walruses")
    assert len(vector) == 2
    assert np.all(vector.values > 0)


def test_models_that_the_manifest_does_not_name_cannot_be_had() -> None:
    encoders = ManifestEncoders(Manifest(collection="docs", chunk_count=1))
    for ask in (encoders.dense, encoders.sparse):
        with pytest.raises(ModelNotAvailable):
            ask("walrus")
    with pytest.raises(ModelNotAvailable):
        encoders.rerank("walrus", ["ice"])
    encoders.close()


def test_a_query_does_not_wait_for_another_ones_reranking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reranking, may_end = threading.Event(), threading.Event()

    def rerank(text: str, documents: Sequence[str]) -> Float32Array:
        reranking.set()
        assert may_end.wait(60)
        return np.zeros(len(documents), dtype=np.float32)

    run = sparse_run("qdrant-bm25", "bm25")
    manifest = Manifest(
        collection="docs", chunk_count=1, dense_run=(dense_run(),), sparse_run=(run,)
    )
    encoders = ManifestEncoders(manifest, offline=True)
    monkeypatch.setattr(encoders, "_load_rerank", lambda: rerank)
    encoders.dense("loaded before")
    encoders.sparse("loaded before")
    other = threading.Thread(target=encoders.rerank, args=("walrus", ["ice"]))
    other.start()
    try:
        assert reranking.wait(60)
        assert encoders.dense("walrus").shape == (MINILM.vector_dim,)
        assert len(encoders.sparse("walrus")) == 1
        assert other.is_alive()
    finally:
        may_end.set()
        other.join()
        encoders.close()


def test_no_model_is_loaded_while_another_one_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoding, may_end, loaded = (threading.Event() for _ in range(3))

    def encode(text: str) -> Float32Array:
        encoding.set()
        assert may_end.wait(60)
        assert not loaded.is_set()
        return np.zeros(MINILM.vector_dim, dtype=np.float32)

    def load() -> Callable[[str, Sequence[str]], Float32Array]:
        loaded.set()
        return lambda _, documents: np.zeros(len(documents), dtype=np.float32)

    manifest = Manifest(collection="docs", chunk_count=1, dense_run=(dense_run(),))
    encoders = ManifestEncoders(manifest, offline=True)
    monkeypatch.setattr(encoders, "_load_dense", lambda _: encode)
    monkeypatch.setattr(encoders, "_load_rerank", load)
    found: list[Float32Array] = []
    asking = threading.Thread(target=lambda: found.append(encoders.dense("walrus")))
    asking.start()
    assert encoding.wait(60)
    other = threading.Thread(target=encoders.rerank, args=("walrus", ["ice"]))
    other.start()
    assert not loaded.wait(0.2)
    may_end.set()
    asking.join()
    other.join()
    assert loaded.is_set()
    assert len(found) == 1
    encoders.close()


def test_a_reranker_that_is_not_here_names_the_cure() -> None:
    for model in ("ms-marco-minilm-l6", "somebody's folder"):
        run = RerankRan(model=model, queries=1, candidates=1, top_k=1)
        manifest = Manifest(collection="docs", chunk_count=1, rerank_run=run)
        with pytest.raises(ModelNotAvailable) as raised:
            ManifestEncoders(manifest, offline=True).rerank("walrus", ["ice"])
        assert raised.value.cure


def test_a_dense_model_that_is_not_here_names_the_cure() -> None:
    run = dense_run(model="theirs", hf_model_id="nobody/has-this")
    manifest = Manifest(collection="docs", chunk_count=1, dense_run=(run,))
    with pytest.raises(ModelNotAvailable) as raised:
        ManifestEncoders(manifest, offline=True).dense("walrus")
    assert raised.value.cure
