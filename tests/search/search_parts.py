"""A bundle written by the real exporter, with BM25 vectors and hashed dense ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder, TermCounter
from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    DenseRun,
    FeatureToggles,
    RerankNotRun,
    RerankRan,
    SubdirCounts,
)
from processor.ultimate_embedder.export.runtime import ExportRuntime
from processor.ultimate_embedder.records import (
    Chunk,
    Float32Array,
    SparseInferenceRun,
    SparseMatrix,
    SparseVector,
)

DIM = 16
DENSE = "hashed-words"
BM25 = "qdrant-bm25"
TOPICS = {
    "api": ["create a collection", "upsert points", "scroll points", "delete a point"],
    "guides": ["filter by payload", "snapshot a shard", "quantize vectors"],
    "guides more": ["monitor a node", "secure an instance"],
}
TEXTS = [
    (subdir, f"How to {topic}. The call number {n} takes a name and a body.", n)
    for subdir, topics in TOPICS.items()
    for n, topic in enumerate(topics * 3)
]


def hashed(text: str) -> Float32Array:
    """A word is a fixed direction, a text the unit sum of its words: [DIM]."""
    total = np.full(DIM, 1e-3)
    for word in re.findall(r"\w+", text.lower()):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        total += np.random.default_rng(seed).normal(size=DIM)
    return (total / np.linalg.norm(total)).astype(np.float32)


class FakeEncoders:
    """Satisfies QueryEncoders; what is in `missing` cannot be had."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        self._missing = missing
        self._bm25 = Bm25Encoder()
        self.closed = False

    def _need(self, model: str) -> None:
        if model in self._missing:
            raise ModelNotAvailable(f"No {model} model here.", cure="Fetch it.")

    def dense(self, text: str, key: str | None = None) -> Float32Array:
        self._need("dense")
        return hashed(text)

    def sparse(self, text: str, key: str | None = None) -> SparseVector:
        self._need("sparse")
        return self._bm25.encode_query(text)

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        self._need("rerank")
        return np.array([shared_words(text, d) for d in documents], dtype=np.float32)

    def close(self) -> None:
        self.closed = True


def shared_words(query: str, text: str) -> float:
    words = set(re.findall(r"\w+", text.lower()))
    return float(len(words & set(re.findall(r"\w+", query.lower()))))


class ListStore:
    """Chunks in a list: what the exporter asks of a store."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self.chunks)


def make_chunks(
    texts: Sequence[tuple[str, str, int]], per_file: int = 1
) -> list[Chunk]:
    return [
        Chunk(
            chunk_id=f"docs:{subdir}:{row // per_file:03}.md:chunk:{row % per_file}",
            collection="docs",
            source_subdir=subdir,
            filename=f"{row // per_file:03}.md",
            index=row % per_file,
            text=text,
            metadata={"collection": "docs", "source_subdir": subdir, "n": n},
        )
        for row, (subdir, text, n) in enumerate(texts)
    ]


def bm25_matrix(texts: Sequence[str]) -> SparseMatrix:
    counts = TermCounter().count(texts)
    encoder = Bm25Encoder(average_length=float(np.mean(counts.lengths)))
    vectors = encoder.encode_documents(texts)
    return SparseMatrix(
        np.cumsum([0, *map(len, vectors)]).astype(np.int64),
        np.concatenate([vector.indices for vector in vectors]),
        np.concatenate([vector.values for vector in vectors]),
    )


MakeBundle = Callable[..., Path]


def write_bundle(
    folder: Path,
    *,
    texts: Sequence[tuple[str, str, int]] = TEXTS,
    per_file: int = 1,
    sparse: bool = True,
    rerank: RerankRan | RerankNotRun | None = None,
    **options: Any,
) -> Path:
    """Write a bundle under `folder` and return its own folder."""
    store = ListStore(make_chunks(texts, per_file))
    dense = {DENSE: np.stack([hashed(chunk.text) for chunk in store])}
    matrices = {BM25: bm25_matrix([c.text for c in store])} if sparse else {}
    with ExportRuntime(folder, "docs", **options) as export:
        export.write_ids(store)
        export.write_dense(DENSE, dense[DENSE])
        export.write_sparse(matrices, {BM25: 9.0})
        export.write_points(store, dense, matrices)
        return export.publish(manifest(store, sparse, rerank))


def manifest(
    store: ListStore, sparse: bool, rerank: RerankRan | RerankNotRun | None
) -> Manifest:
    subdirs = [chunk.source_subdir for chunk in store]
    return Manifest(
        collection="docs",
        chunk_count=len(store),
        feature_toggles=FeatureToggles(
            enable_rerank=rerank is not None,
            enable_sparse=sparse,
            sources={"enable_sparse": "cli"},
        ),
        dense_run=(
            DenseRun(
                model=DENSE,
                hf_model_id=DENSE,
                dimension=DIM,
                dtype="float32",
                max_tokens=64,
                chunks=len(store),
                tokens=1,
                seconds=0.0,
                device="cpu",
            ),
        ),
        sparse_run=(
            SparseInferenceRun(
                run_id="r",
                latency_ms=0.0,
                sparse_model=BM25,
                coverage=1.0,
                statistics={"kind": "bm25", "profile": "qdrant-word"},
            ),
        )
        if sparse
        else None,
        rerank_run=rerank,
        source_subdirs={
            name: SubdirCounts(chunks=subdirs.count(name)) for name in set(subdirs)
        },
    )


RAN = RerankRan(model="tiny", queries=1, candidates=1, top_k=1)
NOT_RUN = RerankNotRun(reason="The weights are not here.", cure="Fetch them.")
