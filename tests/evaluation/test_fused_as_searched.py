"""The fused ranking that is judged is the one that a search gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_parts import QUERIES, HashingQueries, config_for

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.evaluation.documents import RowDocuments
from processor.ultimate_embedder.evaluation.ranking import QueryRanker
from processor.ultimate_embedder.models.catalogue import rerank_model
from processor.ultimate_embedder.records import Float32Array, Query
from processor.ultimate_embedder.retrieval.fusion import FusionConfig, fuse
from processor.ultimate_embedder.search import Bundle, open_bundle
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts

TEXTS = list(QUERIES.values())
ZSCORES = FusionConfig(method="sum", scale="zscore", weights=(0.7, 0.3))
FILES, CHUNKS = 12, 25


class CountingQueries(HashingQueries):
    """Notes how many texts each reranking reads."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        self.read.append(len(documents))
        return super().rerank(text, documents)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of 300 chunks in 12 files, of the words that queries have."""
    root = tmp_path_factory.mktemp("chunks")
    folder = root / "chunked" / "docs"
    folder.mkdir(parents=True)
    words = sorted({word for text in TEXTS for word in text.split()})
    rng = np.random.default_rng(5)
    for file in range(FILES):
        chunks = [{"text": " ".join(rng.choice(words, 9))} for _ in range(CHUNKS)]
        path = folder / f"{file}.md_chunks.json"
        path.write_text(json.dumps(chunks), "utf-8")
    config = config_for(
        chunked_dir=root / "chunked", output_dir=root / "out", probes=False
    )
    BatchRunner(config, silent, "run", hashing_parts()).run()
    return root / "out" / "docs"


def opened_for(
    bundle: Path, candidates: int, encoders: HashingQueries | None = None
) -> Bundle:
    """Open it with a fusion whose scores follow from how long its lists are."""
    rerank = replace(rerank_model("ms-marco-minilm-l6"), candidates=candidates)
    return open_bundle(
        bundle, encoders or HashingQueries(), fusion=ZSCORES, rerank=rerank
    )


def documents(opened: Bundle, chunks: int) -> RowDocuments:
    """Return the map of rows to documents of so many chunks."""
    names = [f"{row // chunks:03}" for row in range(len(opened))]
    return RowDocuments.from_names("filename", names)


@pytest.mark.parametrize("candidates", [20, 150])
def test_documents_of_many_chunks_are_fused_as_a_search_does(
    bundle: Path, candidates: int
) -> None:
    with opened_for(bundle, candidates) as opened:
        by_file = documents(opened, CHUNKS)
        ranker = QueryRanker(opened, by_file, candidates, silent)
        queries = [Query(text, text) for text in TEXTS]
        judged = ranker.run(queries, frozenset()).rankings["fused"]
        for text in TEXTS:
            found = opened.search_stages(text, rerank=False).rankings["fused"]
            searched = by_file.ranked(found, FILES)
            first = len(searched)
            assert judged[text].names[:first] == searched.names
            assert judged[text].scores[:first] == searched.scores


def test_what_only_longer_lists_hold_follows_in_their_order(bundle: Path) -> None:
    with opened_for(bundle, 20) as opened:
        for text in TEXTS:
            lists = opened.rankings(text, len(opened)).lists
            legs = [lists["dense:all-miniLM-l6"], lists["sparse:qdrant-bm25"]]
            fused = lists["fused"]
            searched = opened.search_stages(text, rerank=False).rankings["fused"]
            deeper = fuse(legs, ZSCORES).rows.tolist()
            first = searched.rows.tolist()
            assert len(first) == 100
            rest = [row for row in deeper if row not in set(first)]
            assert fused.rows.tolist() == [*first, *rest]
            assert len(fused) == len(legs[0]) == len(opened)
            assert np.all(np.diff(fused.scores) <= 0)


def test_as_many_candidates_are_reranked_as_are_asked_for(bundle: Path) -> None:
    """Also more than the documents that are judged, and as a search reranks them."""
    encoders = CountingQueries()
    with opened_for(bundle, 20, encoders) as opened:
        ranker = QueryRanker(opened, documents(opened, 1), 150, silent)
        query = Query("q", TEXTS[0])
        judged = ranker.run([query], frozenset({"q"})).rankings["reranked"]["q"]
    assert encoders.read == [150]
    with opened_for(bundle, 150) as opened:
        hits = opened.search(TEXTS[0], stage="reranked", top_k=100)
    assert judged.names == tuple(f"{hit.row:03}" for hit in hits)
