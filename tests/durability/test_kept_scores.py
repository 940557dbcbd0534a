"""Scores of reranked pairs outlive an interruption, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.run.kept_scores import (
    KeepingScorer,
    KeptScores,
    scores_fingerprint,
)
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import (
    FakeDeviceProbe,
    WordOverlapScorer,
    hashing_parts,
    hashing_parts_on,
)

HEAD, OTHER = b"a" * 32, b"b" * 32
PAIRS = [("what is it", f"It is {word}.") for word in ("a", "it", "what is it")]
SCORES = np.array([0.1, -3.25, 7e-9], dtype=np.float32)


class Counting(WordOverlapScorer):
    """Counts the pairs that it is given; stops the run when it has had enough."""

    def __init__(self, enough: int = 10**9) -> None:
        super().__init__()
        self.pairs: list[tuple[str, str]] = []
        self.enough = enough

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        if len(self.pairs) >= self.enough:
            raise KeyboardInterrupt
        self.pairs += pairs
        return super().score(pairs)


def test_scores_come_back_bit_for_bit(tmp_path: Path) -> None:
    with KeptScores(tmp_path / "s", HEAD) as kept:
        kept.add(PAIRS, SCORES)
    with KeptScores(tmp_path / "s", HEAD) as kept:
        found = np.array([kept.get(pair) for pair in PAIRS], dtype=np.float32)
        assert found.tobytes() == SCORES.tobytes()
        assert kept.get(("what is i", "tIt is a.")) is None  # the border counts


def test_another_fingerprint_empties_the_file(tmp_path: Path) -> None:
    with KeptScores(tmp_path / "s", HEAD) as kept:
        kept.add(PAIRS, SCORES)
    with KeptScores(tmp_path / "s", OTHER) as kept:
        assert len(kept) == 0
    with KeptScores(tmp_path / "s", HEAD) as kept:
        assert len(kept) == 0


def test_no_flipped_bit_and_no_cut_gives_another_score(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with KeptScores(path, HEAD) as kept:
        kept.add(PAIRS, SCORES)
    content = path.read_bytes()
    damaged = [content[:size] for size in range(len(content))]
    for place in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            damaged.append(bytes(flipped))
    for wrong in damaged:
        path.write_bytes(wrong)
        with KeptScores(path, HEAD) as kept:
            known = [kept.get(pair) for pair in PAIRS]
            assert len(kept) < len(PAIRS)
            assert all(
                score is None or score == true
                for score, true in zip(known, SCORES.tolist(), strict=True)
            )
            kept.add(PAIRS, SCORES)
        with KeptScores(path, HEAD) as kept:
            assert [kept.get(pair) for pair in PAIRS] == SCORES.tolist()


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    asked = Counting()
    with KeptScores(tmp_path / "s", HEAD) as kept:
        scorer = KeepingScorer(asked, kept)
        first = scorer.score(PAIRS[:2])
        again = scorer.score(PAIRS)
    assert asked.pairs == PAIRS
    assert again[:2].tobytes() == first.tobytes()
    assert again.tobytes() == WordOverlapScorer().score(PAIRS).tobytes()


def test_a_score_that_is_no_number_is_not_kept(tmp_path: Path) -> None:
    class Broken(WordOverlapScorer):
        def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
            return np.full(len(pairs), np.nan, dtype=np.float32)

    with KeptScores(tmp_path / "s", HEAD) as kept:
        assert np.isnan(KeepingScorer(Broken(), kept).score(PAIRS)).all()
        assert len(kept) == 0


def test_the_fingerprint_follows_what_decides_a_score(tmp_path: Path) -> None:
    model = rerank_model("ms-marco-minilm-l6")

    def of(threads: int = 2, **changes: object) -> bytes:
        changed = replace(model, **changes)  # type: ignore[arg-type]
        return scores_fingerprint(changed, device="cpu", threads=threads)

    def on(card: str | None, dtype: str) -> bytes:
        return scores_fingerprint(
            model, device="cuda:0", threads=2, dtype=dtype, card=card
        )

    assert of() == of(top_k=5, candidates=50)
    (tmp_path / "model.safetensors").write_bytes(b"one")
    local = of(hf_model_id=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"two")
    others = [local, of(hf_model_id=str(tmp_path)), of(max_tokens=64), of(threads=1)]
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "1_Dense" / "model.safetensors").write_bytes(b"three")
    others.append(of(hf_model_id=str(tmp_path)))
    (tmp_path / ".git").write_text("no part of a model")
    assert others[-1] == of(hf_model_id=str(tmp_path))
    others += [on("H200", "float16"), on("H200", "bfloat16"), on("T4", "float16")]
    assert len({of(), *others}) == 9


def config_of(root: Path, output: str) -> PipelineConfig:
    return PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / output,
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"),),
        rerank=replace(rerank_model("ms-marco-minilm-l6"), candidates=6, top_k=3),
        queries=root / "queries.jsonl",
        offline=True,
    )


def run(config: PipelineConfig, scorer: Counting) -> None:
    parts = replace(hashing_parts(), load_scorer=lambda _: scorer)
    assert BatchRunner(config, silent, "run", parts).run().exit_code == 0


WORDS = ("shard", "replica", "vector", "index", "filter", "payload", "segment")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Return a folder with a collection and queries for it."""
    folder = tmp_path / "chunked" / "docs"
    folder.mkdir(parents=True)
    texts = [f"About {one} and {two}." for one in WORDS for two in WORDS]
    entries = [{"text": text} for text in texts]
    (folder / "a_chunks.json").write_text(json.dumps(entries))
    queries = [
        json.dumps({"_id": word, "text": f"What is a {word}?"}) for word in WORDS
    ]
    (tmp_path / "queries.jsonl").write_text("\n".join(queries))
    return tmp_path


def test_scores_of_another_model_of_card_are_not_taken_up(asked: Path) -> None:
    def pairs_on(name: str) -> int:
        class Card(FakeDeviceProbe):
            def describe(self, device: str) -> str:
                return name

        scorer = Counting()
        parts = hashing_parts_on(
            ("cuda:0",), Card(), asked / "locks", model_bytes={"all-miniLM-l6": 0}
        )
        parts = replace(parts, load_scorer=lambda _: scorer)
        config = config_of(asked, "out")
        assert BatchRunner(config, silent, "run", parts).run().exit_code == 0
        return len(scorer.pairs)

    assert pairs_on("H200")
    assert pairs_on("H200") == 0
    assert pairs_on("T4")


def test_a_run_stopped_while_reranking_goes_on_where_it_stopped(asked: Path) -> None:
    whole = Counting()
    run(config_of(asked, "reference"), whole)
    stopped, rest = Counting(enough=len(whole.pairs) // 2), Counting()
    with pytest.raises(KeyboardInterrupt):
        run(config_of(asked, "out"), stopped)
    run(config_of(asked, "out"), rest)
    assert stopped.pairs
    assert rest.pairs
    assert sorted(stopped.pairs + rest.pairs) == sorted(set(whole.pairs))
    name = "docs/docs_rerank.jsonl"
    expected = (asked / "reference" / name).read_bytes()
    assert (asked / "out" / name).read_bytes() == expected
    kept = asked / "out" / ".work" / "docs" / "rerank" / "ms-marco-minilm-l6"
    assert not any(word.encode() in kept.read_bytes() for word in WORDS)
