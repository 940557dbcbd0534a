"""A small collection with hand-made vectors, and the bundle that is made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    ConservationCounts,
    DenseRun,
    Environment,
    FeatureToggles,
    QuarantinedEntry,
    RerankRan,
    SubdirCounts,
)
from processor.ultimate_embedder.export.runtime import ExportRuntime
from processor.ultimate_embedder.records import (
    Chunk,
    Float32Array,
    SparseInferenceRun,
    SparseMatrix,
)

COLLECTION = "docs"
PRIMARY = "all-miniLM-l6"
COMPANION = "bge-m3"
BM25 = "qdrant-bm25"
ATTENTION = "qdrant-minilm-attention"
TEXTS = (
    "plain text",
    "line\nfeed\r\nand tab\t",
    "Ωmega — 漢字 🦀\u2028separator",
    '"quotes" and \\backslashes\\ \x00\x1f',
    "    indented\n\tcode()",
)


class ListStore:
    """Chunks in a list: what the exporter asks of a store."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self.chunks)


def make_store(rows: int, collection: str = COLLECTION) -> ListStore:
    chunks = []
    for row in range(rows):
        subdir = ("api", "guide")[row * 2 // max(rows, 1)]
        filename = f"page{row:05}.md"
        chunks.append(
            Chunk(
                chunk_id=f"{collection}:{subdir}:{filename}:chunk:0",
                collection=collection,
                source_subdir=subdir,
                filename=filename,
                index=0,
                text=f"{TEXTS[row % len(TEXTS)]} {row}",
                metadata={
                    "collection": collection,
                    "source_subdir": subdir,
                    "source": f"{subdir}/{filename}",
                    "nested": {"tags": ["a", None, True], "score": 0.1 * row},
                },
            )
        )
    return ListStore(chunks)


def unit_vectors(rows: int, width: int, seed: int = 1) -> Float32Array:
    made = np.random.default_rng(seed).normal(size=(rows, width))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def sparse_matrix(rows: int, seed: int = 1) -> SparseMatrix:
    """Every fifth vector is empty; indices use the whole range of uint32."""
    random = np.random.default_rng(seed)
    indices, values, indptr = [], [], [0]
    vocabulary = np.sort(random.choice(2**32, size=50, replace=False))
    for row in range(rows):
        terms = random.choice(50, size=0 if row % 5 == 4 else 6, replace=False)
        indices.append(vocabulary[np.sort(terms)].astype(np.uint32))
        values.append(random.uniform(0.1, 3, size=len(terms)).astype(np.float32))
        indptr.append(indptr[-1] + len(terms))
    return SparseMatrix(
        np.array(indptr, dtype=np.int64),
        np.concatenate(indices),
        np.concatenate(values),
    )


def dense_run(key: str, rows: int, width: int, **other: Any) -> DenseRun:
    return DenseRun(
        **{
            "model": key,
            "hf_model_id": f"org/{key}",
            "revision": "abc",
            "dimension": width,
            "dtype": "float32",
            "max_tokens": 256,
            "chunks": rows,
            "tokens": rows * 7,
            "seconds": 1.5,
            "device": "cpu",
        }
        | other
    )


def make_manifest(
    store: ListStore,
    dense: dict[str, Float32Array],
    sparse: dict[str, SparseMatrix],
    reranked: int,
) -> Manifest:
    rows = len(store)
    subdirs = [chunk.source_subdir for chunk in store]
    return Manifest(
        collection=store.chunks[0].collection,
        chunk_count=rows,
        generated_at="2026-01-01T00:00:00Z",
        run_id="run-1",
        feature_toggles=FeatureToggles(
            enable_rerank=bool(reranked), enable_sparse=bool(sparse)
        ),
        dense_run=tuple(dense_run(k, rows, v.shape[1]) for k, v in dense.items()),
        sparse_run=tuple(
            SparseInferenceRun(
                run_id="run-1", latency_ms=2.0, sparse_model=key, coverage=1.0
            )
            for key in sparse
        )
        or None,
        rerank_run=RerankRan(model="cross", queries=reranked, candidates=3, top_k=2)
        if reranked
        else None,
        source_subdirs={
            name: SubdirCounts(chunks=subdirs.count(name)) for name in set(subdirs)
        },
        conservation=ConservationCounts(
            files_read=rows,
            chunks_read=rows + 1,
            embedded=rows,
            quarantined=(QuarantinedEntry(file="a.json", index=3, reason="no_text"),),
        ),
        environment=Environment(processor="test", versions={"numpy": "2"}),
    )


def rerank_records(store: ListStore, queries: int) -> list[dict[str, Any]]:
    ids = [chunk.chunk_id for chunk in store][:3]
    return [
        {
            "query_id": f"q{number}",
            "query": "what is Ω?",
            "candidate_ids": ids,
            "scores": np.array([3.5, 2.25, -1.0][: len(ids)], dtype=np.float32),
            "fused_scores": [0.5, 0.4, 0.3][: len(ids)],
            "dense_scores": [0.9, None, 0.7][: len(ids)],
            "sparse_scores": [None, 4.0, 1.0][: len(ids)],
        }
        for number in range(queries)
    ]


def export_bundle(
    output_dir: Path,
    *,
    rows: int = 23,
    seed: int = 1,
    with_sparse: bool = True,
    queries: int = 2,
    **options: Any,
) -> Path:
    """Export a bundle of two dense and two sparse models; return its folder."""
    store = make_store(rows, options.pop("collection", COLLECTION))
    dense = {
        PRIMARY: unit_vectors(rows, 12, seed),
        COMPANION: unit_vectors(rows, 8, seed + 1),
    }
    sparse = (
        {BM25: sparse_matrix(rows, seed), ATTENTION: sparse_matrix(rows, seed + 1)}
        if with_sparse
        else {}
    )
    with ExportRuntime(output_dir, store.chunks[0].collection, **options) as export:
        export.write_ids(store)
        for key, vectors in dense.items():
            export.write_dense(key, vectors)
        export.write_sparse(sparse, {BM25: 6.5, ATTENTION: None})
        export.write_points(store, dense, sparse)
        if queries:
            export.write_rerank(rerank_records(store, queries))
        return export.publish(make_manifest(store, dense, sparse, queries))


def digests(bundle: Path) -> dict[str, str]:
    """Return {path: sum} of every file of a bundle but the manifest."""
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "processing_summary.json"
    }
