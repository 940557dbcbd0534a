"""Marked words are those that the sparse ranking counts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.records import SparseVector
from processor.ultimate_embedder.serving.highlights import Highlighter

HIGHLIGHTER = Highlighter(Bm25Encoder())
WORDS = st.lists(
    st.sampled_from(["vector", "vectors", "the", "Filtering", "filter", "🦀", "größe"])
    | st.text(max_size=6),
    max_size=12,
).map(" ".join)


def marked(query: str, text: str) -> list[str]:
    return [text[start:end] for start, end in HIGHLIGHTER.spans(query, text)]


def test_other_forms_of_a_word_are_marked_and_stop_words_are_not() -> None:
    text = "The filters of a Filtering index, my_filter; the infilter."
    assert marked("the filter", text) == ["filters", "Filtering", "filter"]


def test_spans_count_characters_not_bytes() -> None:
    assert HIGHLIGHTER.spans("shard", "🦀🦀 shard") == [(3, 8)]


class OneAtATime(Bm25Encoder):
    """Fails where a thread enters while another is inside."""

    inside = 0

    def encode_query(self, text: str) -> SparseVector:
        self.inside += 1
        time.sleep(0.001)
        assert self.inside == 1
        self.inside -= 1
        return super().encode_query(text)


def test_threads_may_share_a_highlighter() -> None:
    highlighter = Highlighter(OneAtATime())
    words = [f"word{number}" for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(highlighter.spans, words, words))
    assert found == [[(0, len(word))] for word in words]


@settings(deadline=None)
@example("\U00018d80", "\U00018d80")  # a letter of a Unicode newer than Python's
@given(WORDS, WORDS)
def test_just_the_words_that_share_a_term_are_marked(query: str, text: str) -> None:
    encoder = Bm25Encoder()
    wanted = set(encoder.encode_query(query).indices.tolist())
    spans = HIGHLIGHTER.spans(query, text)
    assert spans == sorted(spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    found: set[int] = set()
    for start, end in spans:
        terms = set(encoder.encode_query(text[start:end]).indices.tolist())
        assert terms & wanted
        found |= terms & wanted
    assert found == set(encoder.encode_query(text).indices.tolist()) & wanted
