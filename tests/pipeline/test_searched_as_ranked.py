"""What a run ranked and wrote into its files is what a search in the bundle finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_parts import config_for

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import RerankRan
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.records import Float32Array, SparseVector
from processor.ultimate_embedder.search import Hit, open_bundle
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import (
    HashingModels,
    WordOverlapScorer,
    hashing_parts,
)

WORDS = (
    *("shard", "payload", "vector", "snapshot", "filter", "node", "segment"),
    *("index", "query", "point", "memory", "disk", "cluster", "replica", "token"),
    *("alias", "batch", "cursor", "optimizer", "storage"),
)
QUESTIONS = ("payload filter", "snapshot of a shard", "vector index memory cursor")
CHUNKS = 260
TOP = 20


class HashingQueries:
    """Encodes queries as `hashing_parts` does; counts what the reranker reads."""

    def __init__(self) -> None:
        self._model = dense_model("all-miniLM-l6")
        self._models = HashingModels(offline=True)
        self.read: list[int] = []

    def dense(self, text: str, key: str | None = None) -> Float32Array:
        ids = self._models.tokenizer(self._model).encode([text], "query").ids
        with self._models.resident(self._model) as encoder:
            vector: Float32Array = encoder.encode(ids)[0]
        return vector

    def sparse(self, text: str, key: str | None = None) -> SparseVector:
        return Bm25Encoder().encode_query(text)

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        self.read.append(len(documents))
        return WordOverlapScorer().score([(text, one) for one in documents])

    def close(self) -> None:
        """Hold nothing."""


def run_over(root: Path, candidates: int) -> tuple[Path, list[dict[str, Any]]]:
    """Return the bundle of a run with these questions, and its rerank file."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(3, 40, CHUNKS)
    entries = [{"text": " ".join(rng.choice(WORDS, n)) + f" {n}."} for n in lengths]
    folder = root / "chunked" / "docs" / "part"
    folder.mkdir(parents=True)
    (folder / "part_chunks.json").write_text(json.dumps(entries), encoding="utf-8")
    queries = root / "queries.jsonl"
    lines = [json.dumps({"_id": text, "text": text}) for text in QUESTIONS]
    queries.write_text("\n".join(lines), encoding="utf-8")
    rerank = rerank_model("ms-marco-minilm-l6")
    config = config_for(
        root,
        sparse=(sparse_model("qdrant-bm25"),),
        rerank=replace(rerank, candidates=candidates, top_k=candidates),
        queries=queries,
        probes=False,
    )
    (outcome,) = BatchRunner(config, silent, "run", hashing_parts()).run().collections
    assert outcome.bundle is not None
    written = (outcome.bundle / "docs_rerank.jsonl").read_text(encoding="utf-8")
    return outcome.bundle, [json.loads(line) for line in written.splitlines()]


def ids_and_scores(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    return [(hit.chunk_id, hit.score) for hit in hits]


@pytest.mark.parametrize("candidates", [TOP, 120])
def test_a_search_fuses_and_reranks_to_the_scores_in_the_rerank_file(
    tmp_path: Path, candidates: int
) -> None:
    """The legs overlap little: lists of another length would give other scores."""
    path, records = run_over(tmp_path, candidates)
    bundle = open_bundle(path, HashingQueries())
    assert len(records) == len(QUESTIONS)
    for record in records:
        ids, text = record["candidate_ids"], record["query"]
        assert None in record["dense_scores"] + record["sparse_scores"]
        fused = zip(ids, record["fused_scores"], strict=True)
        expected = sorted(fused, key=lambda one: (-one[1], bundle.row(one[0])))
        assert ids_and_scores(bundle.search(text, top_k=TOP)) == expected[:TOP]
        found = bundle.search(text, stage="reranked", top_k=TOP)
        scores = zip(ids, record["scores"], strict=True)
        assert ids_and_scores(found) == list(scores)[:TOP]


@pytest.mark.parametrize("candidates", [TOP, 120])
def test_all_candidates_are_reranked_and_no_more(
    tmp_path: Path, candidates: int
) -> None:
    """Lists are a hundred deep, and deeper only where more is reranked."""
    path, _ = run_over(tmp_path, candidates)
    encoders = HashingQueries()
    open_bundle(path, encoders).search(QUESTIONS[2], stage="reranked", top_k=5)
    assert encoders.read == [candidates]
    manifest = Manifest.read(path)
    assert isinstance(manifest.rerank_run, RerankRan)
    assert manifest.rerank_run.statistics["candidates_per_query"] == candidates
    assert manifest.rerank_run.candidates == candidates * len(QUESTIONS)
    assert manifest.fusion_run is not None
    assert manifest.fusion_run.statistics["depth"] == max(100, candidates)
