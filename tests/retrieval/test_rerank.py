"""Batching, truncation and order of pairs; what the rerank stage writes and says."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification

from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.cross_encoder import TorchCrossEncoder
from processor.ultimate_embedder.errors import (
    ModelError,
    ModelMismatch,
    ModelNotAvailable,
)
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import RerankRan
from processor.ultimate_embedder.records import Chunk, Float32Array, Query, RankedList
from processor.ultimate_embedder.retrieval.blend import BlendConfig
from processor.ultimate_embedder.retrieval.ranking import ranked
from processor.ultimate_embedder.search.loading import ManifestEncoders
from processor.ultimate_embedder.stages.cross_encoder import (
    CrossEncoderBatchExecutor,
    TimeIsUp,
)
from processor.ultimate_embedder.stages.fusion import MaskedRow, QueryRankings
from processor.ultimate_embedder.stages.rerank import RerankPipeline
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    Event,
    FallbackUsed,
    StageFinished,
    StageStarted,
)

WORDS = ["index", "payload", "filter", "vector", "search", "point", "segment", "shard"]
WORDS += ["query", "memory"]
WITH_SEGMENTS = ["input_ids", "token_type_ids", "attention_mask"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


class WordOverlap:
    """A scorer to check by hand: shared words, less a little for each word."""

    name = "word-overlap"
    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        return [len(query.split()) + len(text.split()) for query, text in pairs]

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        return max(lengths) * len(lengths)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        self.batches.append(self.pair_lengths(pairs))
        return np.array([overlap(*pair) for pair in pairs], dtype=np.float32)


def overlap(query: str, text: str) -> float:
    words = text.split()
    return sum(word in query.split() for word in words) - len(words) / 64


class Texts:
    """Rows are the given texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def chunk(self, row: int) -> Chunk:
        return Chunk(f"c:s:f.md:chunk:{row}", "c", "s", "f.md", row, self._texts[row])


def config(**changes: object) -> RerankingConfig:
    settings = {"name": "tiny", "hf_model_id": "x", "candidates": 100, "top_k": 20}
    return RerankingConfig(**{**settings, **changes})  # type: ignore[arg-type]


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9), max_size=20),
    st.integers(1, 7),
)
@settings(max_examples=50, deadline=None)
def test_scores_keep_the_order_of_documents_and_batches_grow_in_length(
    words: list[list[str]], cap: int
) -> None:
    scorer = WordOverlap()
    documents = [" ".join(each) for each in words]
    scored = CrossEncoderBatchExecutor(scorer, cap).score("index query", documents)
    assert scored.scores.tolist() == [overlap("index query", d) for d in documents]
    assert all(len(batch) <= cap for batch in scorer.batches)
    assert len(scorer.batches) == math.ceil(len(documents) / cap)
    flat = [length for batch in scorer.batches for length in batch]
    assert flat == sorted(flat)
    assert scored.tokens == sum(flat)
    assert scored.padded_tokens == sum(max(b) * len(b) for b in scorer.batches)


def test_a_score_that_is_no_number_is_an_error() -> None:
    class Broken(WordOverlap):
        def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
            return np.full(len(pairs), np.nan, dtype=np.float32)

    with pytest.raises(ModelError, match="no finite number"):
        CrossEncoderBatchExecutor(Broken(), 4).score("a", ["b"])


def test_a_passed_deadline_stops_between_batches() -> None:
    scorer = WordOverlap()
    ticks = iter([0.0, 1.0, 2.0])
    executor = CrossEncoderBatchExecutor(scorer, 1, clock=lambda: next(ticks))
    with pytest.raises(TimeIsUp):
        executor.score("index", ["a", "b", "c"], deadline=2.0)
    assert len(scorer.batches) == 2


TEXTS = [
    "index payload filter",
    "vector search",
    "query memory index",
    "shard",
    "index index",
]


def found(
    text: str, name: str = "q1", masked: MaskedRow | None = None
) -> QueryRankings:
    def listed(scores: dict[int, float]) -> RankedList:
        return ranked(
            np.array(list(scores), dtype=np.int64), np.array(list(scores.values()))
        )

    return QueryRankings(
        query=Query(name, text),
        dense=listed({0: 0.9, 1: 0.8, 2: 0.7}),
        sparse=listed({2: 5.0, 4: 4.0}),
        fused=listed({2: 0.5, 0: 0.4, 1: 0.3, 4: 0.2}),
        masked=masked,
    )


def pipeline(
    events: list[Event],
    settings: RerankingConfig,
    *,
    key: bytes | None = None,
    timeout: float | None = None,
    ticks: Sequence[float] = (),
) -> RerankPipeline:
    clock = iter(ticks)
    executor = CrossEncoderBatchExecutor(
        WordOverlap(), settings.batch_cap, clock=lambda: next(clock)
    )
    return RerankPipeline(
        executor, settings, events.append, "run-1", key, timeout_seconds=timeout
    )


def test_a_record_holds_each_stages_scores_and_nulls_where_there_are_none() -> None:
    events: list[Event] = []
    result = pipeline(events, config(top_k=3)).run(
        [found("index query")], Texts(TEXTS), "c"
    )
    (record,) = result.records
    assert record == {
        "query_id": "q1",
        "query": "index query",
        "candidate_ids": [f"c:s:f.md:chunk:{row}" for row in (4, 2, 0)],
        "scores": [2 - 2 / 64, 2 - 3 / 64, 1 - 3 / 64],
        "cross_scores": [2 - 2 / 64, 2 - 3 / 64, 1 - 3 / 64],
        "fused_scores": [0.2, 0.5, 0.4],
        "dense_scores": [None, 0.7, 0.9],
        "sparse_scores": [4.0, 5.0, None],
    }
    (header,) = result.headers
    assert header.candidate_ids == record["candidate_ids"]
    assert header.scores == record["scores"]
    assert json.loads(json.dumps(record)) == record


def test_with_a_blend_the_scores_are_of_both_and_the_logits_stand_beside() -> None:
    mixed = config(blend=BlendConfig(weight=0.5, bound=1), candidates=3, top_k=2)
    result = pipeline([], mixed).run([found("index query")], Texts(TEXTS), "c")
    (record,) = result.records
    fused, logits = np.array([0.5, 0.4, 0.3]), [2 - 3 / 64, 1 - 3 / 64, -2 / 64]
    expected = (fused - 0.4) / fused.std() + 0.5 * np.tanh(logits)
    assert record["candidate_ids"] == [f"c:s:f.md:chunk:{row}" for row in (2, 0)]
    assert record["scores"] == pytest.approx(expected[:2])
    assert record["cross_scores"] == logits[:2]
    assert result.headers[0].scores == record["scores"]


def test_only_the_first_candidates_are_read_and_the_best_kept() -> None:
    result = pipeline([], config(candidates=2, top_k=1)).run(
        [found("payload")], Texts(TEXTS), "c"
    )
    assert result.candidates == 2
    assert result.queries[0].ranking.rows.tolist() == [0]


def test_a_probes_answer_is_read_without_the_question() -> None:
    masked = MaskedRow(row=0, text="shard")
    plain, hidden = (
        pipeline([], config()).run(
            [found("payload filter", masked=m)], Texts(TEXTS), "c"
        )
        for m in (None, masked)
    )
    assert plain.queries[0].ranking.rows[0] == 0
    assert hidden.queries[0].ranking.scores.tolist()[0] < 0
    other, masked_there = (
        pipeline([], config()).run([found("index", masked=m)], Texts(TEXTS), "c")
        for m in (None, masked)
    )
    scores = [
        dict(zip(one["candidate_ids"], one["scores"], strict=True))
        for one in (*other.records, *masked_there.records)
    ]
    assert {row for row in scores[0] if scores[0][row] != scores[1][row]} == {
        "c:s:f.md:chunk:0"
    }


def test_redacted_queries_are_keyed_hashes_in_header_and_record() -> None:
    result = pipeline([], config(), key=b"secret").run(
        [found("index query")], Texts(TEXTS), "c"
    )
    expected = hmac.new(b"secret", b"index query", hashlib.sha256).hexdigest()
    (record,) = result.records
    assert record["query"] == result.headers[0].query == expected
    assert "index query" not in json.dumps(record)


def test_a_header_keeps_100_characters_of_a_query_and_the_record_all() -> None:
    text = "index " * 50
    result = pipeline([], config()).run([found(text)], Texts(TEXTS), "c")
    (record,) = result.records
    assert result.headers[0].query == text[:100]
    assert record["query"] == text


def test_a_sparse_leg_that_is_off_is_null() -> None:
    ranking = found("index")
    off = replace(ranking, sparse=None)
    (record,) = pipeline([], config()).run([off], Texts(TEXTS), "c").records
    assert record["sparse_scores"] is None


def test_a_timeout_leaves_the_rest_to_fusion_and_says_so() -> None:
    events: list[Event] = []
    # The clock is read once for the deadline and once before each batch.
    slow = pipeline(events, config(), timeout=10.0, ticks=[0.0, 5.0, 11.0])
    queries = [found("index", "q1"), found("query", "q2"), found("shard", "q3")]
    result = slow.run(queries, Texts(TEXTS), "c")
    assert [query.query.query_id for query in result.queries] == ["q1"]
    assert (result.not_reranked, result.fallback_reason) == (2, "timeout")
    assert [type(event) for event in events] == [
        StageStarted,
        BatchFinished,
        FallbackUsed,
        StageFinished,
    ]
    finished = events[-1]
    assert isinstance(finished, StageFinished)
    assert finished.fallback_reason == "timeout"
    assert (finished.items, finished.candidates) == (1, result.candidates)


def test_each_query_is_one_event_and_no_event_holds_its_text() -> None:
    events: list[Event] = []
    result = pipeline(events, config()).run(
        [found("index"), found("shard", "q2")], Texts(TEXTS), "c"
    )
    batches = [event for event in events if isinstance(event, BatchFinished)]
    assert [batch.items for batch in batches] == [1, 1]
    assert isinstance(events[-1], StageFinished)
    assert events[-1].candidates == result.candidates == 8
    assert not any(word in repr(event) for event in events for word in WORDS[:6])
    assert isinstance(events[0], StageStarted)
    assert (events[0].total, events[-1].items) == (2, 2)
    assert [batch.candidates for batch in batches] == [4, 4]
    assert [batch.batch_size for batch in batches] == [4, 4]
    assert {batch.device for batch in batches} == {"cpu"}
    times = [header.latency_ms for header in result.headers]
    assert result.latency_ms(0) == min(times)
    assert result.latency_ms(100) == max(times)


def test_without_a_query_there_is_no_latency() -> None:
    result = pipeline([], config()).run([], Texts(TEXTS), "c")
    assert (result.queries, result.latency_ms(50)) == ((), None)
    assert result.not_reranked == 0


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with one output and a WordPiece tokenizer of 26 words."""
    return build_model(tmp_path_factory.mktemp("tiny"), labels=1)


def build_model(
    folder: Path, labels: int, inputs: Sequence[str] = WITH_SEGMENTS
) -> Path:
    pieces = [*SPECIAL, *WORDS, *"abcdefgh", *[f"##{letter}" for letter in "abcdefgh"]]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad", "unk", "cls", "sep"), SPECIAL, strict=True))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": 32,
                "model_input_names": inputs,
                **{f"{name}_token": token for name, token in names.items()},
            }
        )
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=32,
            num_labels=labels,
            initializer_range=0.5,
        )
    )
    model.save_pretrained(folder)
    return folder


def tiny_config(folder: Path, **changes: object) -> RerankingConfig:
    return config(hf_model_id=str(folder), max_tokens=32, **changes)


def random_pairs(count: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(5)
    pairs = []
    for _ in range(count):
        query = " ".join(rng.choice(WORDS, rng.integers(1, 12)))
        text = " ".join(rng.choice([*WORDS, "abc", "hgf", "zzz"], rng.integers(1, 40)))
        pairs.append((query, text))
    return pairs


@pytest.mark.parametrize("inputs", [WITH_SEGMENTS, ["input_ids", "attention_mask"]])
def test_logits_are_those_of_sentence_transformers_whatever_the_batches(
    tmp_path: Path, inputs: list[str]
) -> None:
    from sentence_transformers import CrossEncoder

    tiny_model = build_model(tmp_path, labels=1, inputs=inputs)
    pairs = random_pairs(40)
    theirs = CrossEncoder(
        str(tiny_model), max_length=32, device="cpu", local_files_only=True
    ).predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    scorer = TorchCrossEncoder.load(
        tiny_config(tiny_model), offline=True, dtype="float32"
    )
    assert np.ptp(theirs) > 0.1
    assert any(length == 32 for length in scorer.pair_lengths(pairs))
    for size in (1, 7, 40):
        ours = np.concatenate(
            [scorer.score(pairs[i : i + size]) for i in range(0, len(pairs), size)]
        )
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_the_executor_gives_the_models_scores_in_document_order(
    tiny_model: Path,
) -> None:
    scorer = TorchCrossEncoder.load(tiny_config(tiny_model), offline=True)
    documents = [text for _, text in random_pairs(20)]
    scored = CrossEncoderBatchExecutor(scorer, 3).score("index query", documents)
    one_by_one = [float(scorer.score([("index query", d)])[0]) for d in documents]
    assert scored.scores == pytest.approx(one_by_one, abs=1e-5)
    assert scorer.score([]).shape == (0,)


def test_a_search_reranks_with_the_model_folder_that_the_manifest_names(
    tiny_model: Path,
) -> None:
    run = RerankRan(
        model=tiny_model.name,
        queries=1,
        candidates=1,
        top_k=1,
        statistics={"hf_model_id": str(tiny_model)},
    )
    manifest = Manifest(collection="c", chunk_count=1, rerank_run=run)
    encoders = ManifestEncoders(manifest, offline=True)
    documents = [text for _, text in random_pairs(40)]
    scores = encoders.rerank("index query", documents)
    scorer = TorchCrossEncoder.load(tiny_config(tiny_model), offline=True)
    expected = scorer.score([("index query", document) for document in documents])
    assert scores == pytest.approx(expected, abs=1e-5)


def test_weights_that_are_not_here_are_named_with_a_cure(tmp_path: Path) -> None:
    absent = config(hf_model_id="nobody/has-this-reranker")
    with pytest.raises(ModelNotAvailable) as raised:
        TorchCrossEncoder.load(absent, offline=True)
    assert raised.value.cure


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = build_model(tmp_path, labels=1)
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError):
        TorchCrossEncoder.load(tiny_config(folder), offline=True)


def test_a_model_with_two_outputs_is_refused(tmp_path: Path) -> None:
    folder = build_model(tmp_path, labels=2)
    with pytest.raises(ModelMismatch, match="2 outputs"):
        TorchCrossEncoder.load(tiny_config(folder), offline=True)


def test_a_window_longer_than_the_models_is_refused(tiny_model: Path) -> None:
    longer = config(hf_model_id=str(tiny_model), max_tokens=512)
    with pytest.raises(ModelMismatch, match="32 positions"):
        TorchCrossEncoder.load(longer, offline=True)
