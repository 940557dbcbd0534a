"""A run measures its bundle, and warns of stages that make searching it worse."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_parts import Run, config_for, write_collection

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.models.catalogue import rerank_model
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.retrieval.fusion import FusionConfig
from processor.ultimate_embedder.retrieval.quality import (
    QualityCard,
    StageDifference,
    quality_card,
)
from processor.ultimate_embedder.retrieval.significance import Estimate
from processor.ultimate_embedder.run.card import harm_warnings
from processor.ultimate_embedder.telemetry.events import Warned
from processor.ultimate_embedder.testing import (
    RecordingListener,
    WordOverlapScorer,
    hashing_parts,
)

DENSE, BM25 = "all-miniLM-l6", "qdrant-bm25"


class Contrary(WordOverlapScorer):
    """Puts last what holds the word that tells one chunk from the others."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return float32 [pairs], 0 or -1."""
        telling = [re.findall(r"qu\w\wzz", query) for query, _ in pairs]
        held = [
            any(word in text for word in words)
            for words, (_, text) in zip(telling, pairs, strict=True)
        ]
        worst: Float32Array = -np.array(held, dtype=np.float32)
        return worst


def contrary_run(root: Path, **changes: Any) -> tuple[Manifest, RecordingListener]:
    """Run over 72 chunks with a reranker that is always wrong."""

    def load(config: RerankingConfig) -> Contrary:
        return Contrary()

    write_collection(root / "chunked", "docs")
    heard = RecordingListener()
    rerank = replace(rerank_model("ms-marco-minilm-l6"), candidates=20, top_k=20)
    changes = {
        "fusion": FusionConfig.parse("sum(scale=raw, weights=0.01:1)"),
        **changes,
    }
    config = config_for(root, rerank=rerank, **changes)
    parts = replace(hashing_parts(), load_scorer=load)
    outcome = BatchRunner(config, heard, "run", parts).run()
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    return manifest, heard


def card_in(manifest: Manifest) -> QualityCard:
    assert manifest.fusion_run is not None
    assert manifest.fusion_run.quality_card is not None
    return manifest.fusion_run.quality_card


def test_a_reranker_that_hurts_is_warned_of_with_the_switch_that_turns_it_off(
    tmp_path: Path,
) -> None:
    manifest, heard = contrary_run(tmp_path)
    found = card_in(manifest).difference("reranked", "fused")
    assert found is not None
    assert found.queries == 32
    assert found.better_by.high < 0
    (warning,) = [text for text in manifest.warnings if "reranked" in text]
    assert warning.startswith("reranked is worse than fused by 1.000 ")
    assert "nDCG@10 on 32 of this bundle's probes (p < 0.001)" in warning
    assert "--disable-rerank" in warning
    assert warning in [event.message for event in heard.of(Warned)]


def test_a_reranker_is_compared_with_fusion_on_the_questions_it_reranked(
    tmp_path: Path,
) -> None:
    manifest, _ = contrary_run(tmp_path)
    card = card_in(manifest)
    fused, reranked = card.stage("fused"), card.stage("reranked")
    assert fused is not None
    assert reranked is not None
    assert (fused.queries, reranked.queries) == (72, 32)
    pairs = [(one.stage, one.against, one.queries) for one in card.differences]
    assert pairs == [
        ("fused", DENSE, 72),
        ("fused", BM25, 72),
        ("reranked", "fused", 32),
        (BM25, DENSE, 72),
        ("qdrant-minilm-attention", DENSE, 72),
    ]
    assert card.kinds == {"heading": 72}


def test_fusion_of_one_ranking_is_not_compared_with_it(tmp_path: Path) -> None:
    manifest, _ = contrary_run(tmp_path, enable_sparse=False)
    pairs = [(one.stage, one.against) for one in card_in(manifest).differences]
    assert pairs == [("reranked", "fused")]


def test_without_probes_the_card_says_that_they_are_off(run: Run) -> None:
    outcome, _ = run(probes=False)
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    card = card_in(manifest)
    assert (card.probes, card.stages) == (0, ())
    assert "--no-probes" in card.remarks[0]


def test_a_collection_that_asks_nothing_says_so(tmp_path: Path) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=2)
    for path in (tmp_path / "chunked").rglob("*_chunks.json"):
        path.write_text(path.read_text().replace("## How ", "How "))
    outcome = BatchRunner(
        config_for(tmp_path), RecordingListener(), "run", hashing_parts()
    ).run()
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert card_in(manifest).remarks[0].startswith("No chunk of this collection asks")


def test_given_queries_leave_rerank_without_figures_and_the_card_says_so(
    run: Run, tmp_path: Path
) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "q1", "text": "the qudczz words"}\n')
    outcome, _ = run(queries=queries)
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    card = card_in(manifest)
    assert card.stage("reranked") is None
    assert "The given queries were reranked, not the probes." in card.remarks


def card_with(stage: str, against: str, gain: float, p_value: float) -> QualityCard:
    difference = StageDifference(
        stage=stage,
        against=against,
        queries=200,
        better_by=Estimate(value=gain, low=gain - 0.02, high=gain + 0.02),
        p_value=p_value,
        exact=False,
    )
    return quality_card({}, depths={}).model_copy(update={"differences": (difference,)})


@pytest.mark.parametrize(
    ("stage", "against", "told"),
    [
        ("reranked", "fused", "or build with --disable-rerank."),
        ("fused", DENSE, "search with --stage dense, or build with --disable-sparse."),
        ("fused", BM25, "search with --stage sparse, or give it more weight with"),
    ],
)
def test_each_harmful_stage_has_its_switch(stage: str, against: str, told: str) -> None:
    card = card_with(stage, against, -0.0412, 0.0104)
    (warning,) = harm_warnings(card, primary=DENSE, sparse=[BM25])
    assert warning.startswith(
        f"{stage} is worse than {against} by 0.041 nDCG@10 on 200 of this bundle's "
        "probes (p = 0.010): "
    )
    assert told in warning


@pytest.mark.parametrize(
    ("stage", "against", "gain", "p_value"),
    [
        ("fused", DENSE, -0.04, 0.06),
        ("fused", DENSE, 0.04, 0.001),
        (BM25, DENSE, -0.4, 0.001),
    ],
    ids=["by chance", "better", "a leg that nobody is given"],
)
def test_what_does_not_make_a_search_worse_is_not_warned_of(
    stage: str, against: str, gain: float, p_value: float
) -> None:
    card = card_with(stage, against, gain, p_value)
    assert list(harm_warnings(card, primary=DENSE, sparse=[BM25])) == []


def test_a_manifest_without_a_card_is_read(tmp_path: Path) -> None:
    contrary_run(tmp_path, enable_rerank=False)
    manifest = Manifest.read(tmp_path / "out" / "docs")
    old = manifest.model_dump(mode="json")
    del old["fusion_run"]["quality_card"]
    read = Manifest.model_validate(old)
    assert read.fusion_run is not None
    assert read.fusion_run.quality_card is None
    assert read.fusion_run.quality["fused"]["nDCG@10"] > 0
