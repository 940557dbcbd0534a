"""BM25 vectors equal those of Qdrant's engine and of fastembed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import qdrant_edge
from fastembed.sparse.bm25 import Bm25 as FastembedBm25
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder, TermCounter
from processor.ultimate_embedder.encoders.words import token_id
from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.records import SparseVector

Plain = list[tuple[int, float]]
Oracle = Callable[[str], Plain]
COLLIDING = ("bhnqk", "dtqtk")

FRAGMENTS = st.sampled_from(
    ["the", "Running", "_", "__x", "don't", "İ", "ΑΣ", "🎉", "你好", "é", "e\u0301",
     "x" * 40, "x" * 41, "𝒜", "हिन्दी", "42", "v1.2", " ", "\n", "-", "ß", "Σ"]
)  # fmt: skip
HOSTILE = st.lists(
    st.one_of(FRAGMENTS, st.text(max_size=12)), max_size=30
).map("".join)  # fmt: skip


def _engine_oracle(engine: qdrant_edge.Bm25) -> Oracle:
    def embed(text: str) -> Plain:
        vector = engine.embed_document(text)
        return sorted(zip(vector.indices, vector.values, strict=True))

    return embed


def _fastembed_oracle(library: FastembedBm25) -> Oracle:
    def embed(text: str) -> Plain:
        (vector,) = library.raw_embed([text])
        return sorted(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))

    return embed


@pytest.fixture(params=["qdrant-word", "fastembed"])
def pair(request: pytest.FixtureRequest) -> tuple[Bm25Encoder, Oracle]:
    encoder = Bm25Encoder(request.param, average_length=100.0)
    if request.param == "qdrant-word":
        return encoder, _engine_oracle(request.getfixturevalue("engine"))
    return encoder, _fastembed_oracle(request.getfixturevalue("fastembed_bm25"))


def _assert_equal(vector: SparseVector, expected: Plain) -> None:
    assert vector.indices.tolist() == [number for number, _ in expected]
    values = [value for _, value in expected]
    np.testing.assert_allclose(vector.values, values, rtol=0, atol=1e-6)


def _assert_same(encoder: Bm25Encoder, oracle: Oracle, texts: Sequence[str]) -> None:
    for vector, text in zip(encoder.encode_documents(texts), texts, strict=True):
        _assert_equal(vector, oracle(text))


def test_real_text_has_the_vectors_of_the_library(
    pair: tuple[Bm25Encoder, Oracle], corpus: list[str]
) -> None:
    _assert_same(*pair, corpus)


def test_hostile_text_has_the_vectors_of_the_library(
    pair: tuple[Bm25Encoder, Oracle], hostile: tuple[str, ...]
) -> None:
    _assert_same(*pair, hostile)
    _assert_same(*pair, ["\n".join(hostile)])


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(HOSTILE, max_size=4))
def test_any_text_has_the_vectors_of_the_engine(
    engine: qdrant_edge.Bm25, texts: list[str]
) -> None:
    encoder = Bm25Encoder("qdrant-word", average_length=100.0)
    _assert_same(encoder, _engine_oracle(engine), texts)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(HOSTILE, max_size=4))
def test_any_text_has_the_vectors_of_fastembed(
    fastembed_bm25: FastembedBm25, texts: list[str]
) -> None:
    encoder = Bm25Encoder("fastembed", average_length=100.0)
    _assert_same(encoder, _fastembed_oracle(fastembed_bm25), texts)


def test_queries_are_those_of_the_libraries(
    engine: qdrant_edge.Bm25,
    fastembed_bm25: FastembedBm25,
    corpus: list[str],
    hostile: tuple[str, ...],
) -> None:
    qdrant, fastembed = Bm25Encoder("qdrant-word"), Bm25Encoder("fastembed")
    for text in [*corpus[::50], *hostile]:
        expected = engine.embed_query(text)
        assert qdrant.encode_query(text).indices.tolist() == expected.indices
        assert set(qdrant.encode_query(text).values.tolist()) <= {1.0}
        (other,) = fastembed_bm25.query_embed(text)
        vector = fastembed.encode_query(text)
        assert vector.indices.tolist() == sorted(other.indices.tolist())
        assert set(vector.values.tolist()) <= {1.0}


@pytest.mark.parametrize(
    "text",
    [
        f"{COLLIDING[0]} {COLLIDING[1]} {COLLIDING[1]} else",
        f"{COLLIDING[1]} {COLLIDING[1]} {COLLIDING[0]} else",
        f"{COLLIDING[1]} zebra {COLLIDING[0]} {COLLIDING[1]}",
    ],
)
def test_two_stems_with_one_id_count_as_in_the_libraries(
    text: str, engine: qdrant_edge.Bm25, fastembed_bm25: FastembedBm25
) -> None:
    shared = token_id(COLLIDING[0])
    assert shared == token_id(COLLIDING[1])
    # Rows around it, so that the alias was given out before or after.
    texts = ["zebra", COLLIDING[0], text, COLLIDING[1], "zebra else"]
    oracle = _fastembed_oracle(fastembed_bm25)
    _assert_same(Bm25Encoder("fastembed", average_length=100.0), oracle, texts)
    vectors = Bm25Encoder("qdrant-word", average_length=100.0).encode_documents(texts)
    for vector, text_ in zip(vectors, texts, strict=True):
        _assert_equal(vector, oracle(text_))
    # The engine takes either stem, by chance of its hash map's seed.
    assert engine.embed_document(text).indices == vectors[2].indices.tolist()


def test_a_words_vector_does_not_depend_on_what_was_counted_before(
    corpus: list[str],
) -> None:
    fresh = [Bm25Encoder().encode_documents([text])[0] for text in corpus[:40]]
    used = Bm25Encoder()
    used.encode_documents(corpus)
    for vector, expected in zip(used.encode_documents(corpus[:40]), fresh, strict=True):
        assert vector.indices.tobytes() == expected.indices.tobytes()
        assert vector.values.tobytes() == expected.values.tobytes()


def test_a_full_memo_is_emptied_and_changes_nothing(
    corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*corpus[:30], "hello🎉world " + " ".join(COLLIDING)]
    expected = TermCounter().count(texts)
    monkeypatch.setattr(
        "processor.ultimate_embedder.encoders.bm25._MEMO_BUDGET_BYTES", 1000
    )
    counter = TermCounter()
    for row, text in enumerate(texts):
        counted = counter.count([text])
        start, stop = expected.indptr[row : row + 2]
        assert counted.ids.tolist() == expected.ids[start:stop].tolist()
        assert counted.counts.tolist() == expected.counts[start:stop].tolist()


def test_the_formula_can_be_checked_by_hand() -> None:
    encoder = Bm25Encoder(average_length=5.0)
    (vector,) = encoder.encode_documents(["zebra cat the sat zebra on a mat"])
    values = dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))
    # Five tokens are left, the average: 2 * 2.2 / (2 + 1.2) and 2.2 / (1 + 1.2).
    assert values[token_id("zebra")] == pytest.approx(1.375, abs=1e-6)
    assert values[token_id("mat")] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"average_length": 0.0}, {"k": -1.0}, {"b": 1.5}, {"b": float("nan")}]
)
def test_impossible_parameters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="average_length > 0"):
        Bm25Encoder(**wrong)
