"""Texts longer than the window: every token is in the vector, and bytes are settled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_parts import Pass, hashing, long_text
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertModel

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder, Frame
from processor.ultimate_embedder.encoders.texts import TextEncoder
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.encoders.windows import (
    cut_ids,
    own_attention,
    pool_windows,
    share_out,
)
from processor.ultimate_embedder.errors import ModelMismatch
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.telemetry.events import BatchFinished, StageStarted
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import OpenEncoder, in_process

WINDOW = 256
ROOM = WINDOW - 2  # [CLS] and [SEP]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(12, 3000), min_size=1, max_size=6),
    head=st.integers(0, 5),
    tail=st.integers(0, 3),
    window=st.integers(12, 300),
)
def test_each_token_is_in_one_window_and_all_but_the_last_are_full(
    lengths: list[int], head: int, tail: int, window: int
) -> None:
    frame = Frame(head, tail)
    texts, starts, stops = share_out(np.array(lengths), frame, window)
    for text, length in enumerate(lengths):
        mine = texts == text
        covered = [
            token
            for start, stop in zip(starts[mine], stops[mine], strict=True)
            for token in range(start, stop)
        ]
        if length <= window:
            assert not covered
            continue
        assert covered == list(range(head, length - tail))
        sizes = (stops[mine] - starts[mine]).tolist()
        assert set(sizes[:-1]) == {window - frame.size}
        assert 1 <= sizes[-1] <= window - frame.size


@pytest.mark.parametrize(
    ("words", "windows"),
    [(ROOM, 0), (ROOM + 1, 2), (10 * ROOM, 10), (10 * ROOM + 1, 11)],
    ids=["exactly the window", "one token over", "ten windows", "one over ten"],
)
def test_no_token_is_lost_at_the_edges_of_the_window(
    manager: ModelManager,
    minilm: ModelConfig,
    tokenizer: HubTokenizer,
    tmp_path: Path,
    words: int,
    windows: int,
) -> None:
    passing = Pass(tmp_path, [long_text(words), "x"], manager, minilm, tokenizer)
    block = passing.block(in_process(hashing))
    assert block.windows == windows
    assert block.chunks_in_windows == int(windows > 0)
    assert (block.truncated_chunks, block.truncated_tokens) == (0, 0)
    assert block.tokens == words + 2 + 3
    assert block.texts == 2
    whole = passing.tokens.row(0)
    ids = [passing.pieces.ids(passing.tokens, 2 + w) for w in range(windows)]
    assert all(len(row) <= WINDOW for row in ids)
    assert all((row[0], row[-1]) == (whole[0], whole[-1]) for row in ids)
    if windows:
        own = np.concatenate([row[1:-1] for row in ids])
        np.testing.assert_array_equal(own, whole[1:-1])


@pytest.fixture(scope="module")
def windowed(encoder: AttentionEncoder, tokenizer: HubTokenizer) -> TextEncoder:
    return TextEncoder(encoder, tokenizer, WINDOW, "windows")


def test_a_long_text_agrees_with_a_direct_computation(
    manager: ModelManager, minilm: ModelConfig, tokenizer: HubTokenizer
) -> None:
    path = manager.locate(minilm).path
    bert = BertModel.from_pretrained(path, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(path)
    some = [long_text(ROOM + 1), long_text(600)]
    with manager.resident(minilm, dtype="float32") as loaded:
        texts = TextEncoder(loaded, tokenizer, WINDOW, "windows")
        found = texts.vectors(some, "document")
    for text, vector in zip(some, found, strict=True):
        tokens = words(text, add_special_tokens=False, verbose=False)["input_ids"]
        total = torch.zeros(bert.config.hidden_size)
        for start in range(0, len(tokens), ROOM):
            own = tokens[start : start + ROOM]
            ids = [words.cls_token_id, *own, words.sep_token_id]
            with torch.inference_mode():
                hidden = bert(input_ids=torch.tensor([ids])).last_hidden_state[0]
            mean = hidden.mean(dim=0)
            total += mean / mean.norm() * len(own) * (2 if start == 0 else 1)
        expected = (total / total.norm()).numpy()
        assert float(vector @ expected) >= 0.9998


LONG = (long_text(ROOM + 1), long_text(600), long_text(601))


@pytest.fixture(scope="module")
def alone(windowed: TextEncoder, texts: list[str]) -> dict[str, tuple[bytes, bytes]]:
    """The bytes of vector and attention of each text, embedded by itself."""
    found = {}
    for text in (*texts[:5], *LONG):
        vectors, ((_, attention),) = windowed.vectors_and_attention([text])
        found[text] = (vectors[0].tobytes(), attention.tobytes())
    return found


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.sampled_from([1, 3, 64]))
def test_bytes_depend_on_the_text_alone_with_long_texts_among_them(
    alone: dict[str, tuple[bytes, bytes]],
    manager: ModelManager,
    minilm: ModelConfig,
    windowed: TextEncoder,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    rows: int,
) -> None:
    shuffled = list(alone)
    random.Random(seed).shuffle(shuffled)
    some = [*shuffled[:5], LONG[1]]
    folder, tokenizer = tmp_path_factory.mktemp("pass"), manager.tokenizer(minilm)
    passing = Pass(folder, some, manager, minilm, tokenizer, rows_a_batch=rows)
    block = passing.block(in_process(holding(windowed.encoder)))
    assert block.vectors is not None
    assert block.attention is not None
    for row, text in enumerate(some):
        attention = block.attention.row(row)[1]
        assert (block.vectors[row].tobytes(), attention.tobytes()) == alone[text]


def test_bytes_do_not_depend_on_what_else_is_asked(
    alone: dict[str, tuple[bytes, bytes]], windowed: TextEncoder
) -> None:
    together = windowed.vectors(list(alone), "document")
    assert together.tobytes() == b"".join(vector for vector, _ in alone.values())


def holding(encoder: AttentionEncoder) -> OpenEncoder:
    @contextmanager
    def open_encoder(_: EncodeJob) -> Iterator[AttentionEncoder]:
        yield encoder

    return open_encoder


def test_cut_gives_what_the_tokenizers_own_truncation_gives(
    manager: ModelManager,
    minilm: ModelConfig,
    tokenizer: HubTokenizer,
    encoder: AttentionEncoder,
    tmp_path: Path,
) -> None:
    some = [long_text(ROOM), long_text(ROOM + 1), long_text(1000), "short"]
    peer = Tokenizer.from_file(str(manager.locate(minilm).path / "tokenizer.json"))
    peer.no_padding()
    peer.enable_truncation(WINDOW)
    ids = [np.array(peer.encode(text).ids, dtype=np.uint32) for text in some]
    expected, weights = encoder.encode_with_attention(ids)

    passing = Pass(tmp_path, some, manager, minilm, tokenizer, cut_at=WINDOW)
    block = passing.block(in_process(holding(encoder)))
    assert block.vectors is not None
    assert block.attention is not None
    assert block.vectors.tobytes() == expected.tobytes()
    assert block.attention.weights.tobytes() == np.concatenate(weights).tobytes()
    assert block.windows == 0
    lost = 1 + 1000 - ROOM
    assert (block.truncated_chunks, block.truncated_tokens) == (2, lost)
    told = sum(event.truncated_tokens for event in passing.heard.of(BatchFinished))
    assert told == lost
    cut = TextEncoder(encoder, tokenizer, WINDOW, "cut")
    assert cut.vectors(some, "document").tobytes() == expected.tobytes()


@pytest.mark.parametrize("role", ["document", "query"])
def test_the_end_of_a_long_text_counts(windowed: TextEncoder, role: str) -> None:
    one, other = long_text(500) + " zebra", long_text(500) + " giraffe"
    found = windowed.vectors([one, other], role)
    assert not np.array_equal(found[0], found[1])
    cut = replace(windowed, long_texts="cut").vectors([one, other], role)
    assert np.array_equal(cut[0], cut[1])


def test_attention_of_a_long_text_keeps_every_token_once(windowed: TextEncoder) -> None:
    _, ((ids, attention),) = windowed.vectors_and_attention([long_text(1000)])
    assert len(ids) == len(attention) == 1002
    assert np.isfinite(attention).all()
    assert (attention > 0).all()
    assert attention.sum() <= 1.001  # the rest fell on repeated special tokens


def test_attention_is_weighted_by_the_windows_share_of_the_text() -> None:
    frame, length = Frame(1, 1), 12  # ten tokens of its own, in windows of 4 and 6
    even = np.full(6, 1 / 6, dtype=np.float32)
    first, kept = own_attention(even, 1, 5, length, frame)
    assert (first, len(kept)) == (0, 5)
    np.testing.assert_allclose(kept, 0.4 / 6, rtol=1e-6)
    even = np.full(8, 1 / 8, dtype=np.float32)
    first, kept = own_attention(even, 5, 11, length, frame)
    assert (first, len(kept)) == (5, 7)
    np.testing.assert_allclose(kept, 0.6 / 8, rtol=1e-6)


def test_one_window_is_its_own_pooling_and_many_are_summed_in_order() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    tokens = np.append(np.full(2999, 254), 3)
    alone = pool_windows(rows[:1], tokens[:1])
    np.testing.assert_allclose(alone, rows[0], atol=1e-7)
    expected = tokens @ rows.astype(np.float64) + tokens[0] * rows[0].astype(np.float64)
    found = pool_windows(rows, tokens)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)
    assert found.dtype == np.float32


def test_texts_are_counted_once_whatever_their_windows(
    manager: ModelManager, minilm: ModelConfig, tokenizer: HubTokenizer, tmp_path: Path
) -> None:
    some = ["a", long_text(3000), "b", long_text(300)]
    passing = Pass(tmp_path, some, manager, minilm, tokenizer, rows_a_batch=2)
    passing.run(in_process(hashing))
    heard = passing.heard
    assert sum(event.items for event in heard.of(BatchFinished)) == 4
    assert [event.total for event in heard.of(StageStarted)] == [4]
    again = passing.block(in_process(hashing))
    assert (again.computed_chunks, again.reused_chunks) == (0, 4)


def test_equal_long_texts_are_computed_once(
    manager: ModelManager, minilm: ModelConfig, tokenizer: HubTokenizer, tmp_path: Path
) -> None:
    twice = [long_text(600), "x", long_text(600)]
    passing = Pass(tmp_path, twice, manager, minilm, tokenizer)
    block = passing.block(in_process(hashing))
    assert block.windows == 3
    assert block.chunks_in_windows == 2
    assert block.vectors is not None
    assert block.vectors[0].tobytes() == block.vectors[2].tobytes()


def prompted(manager: ModelManager, model: ModelConfig, prompt: str) -> HubTokenizer:
    return manager.tokenizer(replace(model, query_prefix=prompt))


def test_every_window_repeats_the_prompt(
    manager: ModelManager, minilm: ModelConfig, encoder: AttentionEncoder
) -> None:
    tokenizer = prompted(manager, minilm, "find the code: ")
    assert tokenizer.frame("query") == Frame(5, 1)
    assert tokenizer.frame("document") == Frame(1, 1)
    (ids,) = tokenizer.encode([long_text(600)], "query").ids
    _, starts, stops = share_out(np.array([len(ids)]), Frame(5, 1), WINDOW)
    assert (starts[0], stops[-1], len(starts)) == (5, 605, 3)


@pytest.mark.parametrize("role", ["query_prefix", "document_prefix"])
def test_a_prompt_that_fills_the_window_is_refused(
    manager: ModelManager, minilm: ModelConfig, role: str
) -> None:
    manager.tokenizer(replace(minilm, **{role: long_text(ROOM - 1)}))
    with pytest.raises(ModelMismatch, match="no room for text beside 256") as caught:
        manager.tokenizer(replace(minilm, **{role: long_text(ROOM)}))
    assert "prompt" in str(caught.value.cure)


def test_a_row_over_the_window_never_reaches_the_model(
    encoder: AttentionEncoder, tokenizer: HubTokenizer
) -> None:
    ids = tokenizer.encode([long_text(300)], "document").ids
    with pytest.raises(ValueError, match="cut into windows"):
        encoder.encode(ids)


def test_what_is_cut_keeps_its_frame(tokenizer: HubTokenizer) -> None:
    found = tokenizer.encode([long_text(1000), "short"], "document")
    assert [len(row) for row in found.ids] == [1002, 3]
    cut = cut_ids(found.ids[0], found.frame, WINDOW)
    assert len(cut) == WINDOW
    assert cut[-1] == found.ids[0][-1]
