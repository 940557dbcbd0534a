"""Words, stop-words and stems are the engine's, asked character by character."""

from __future__ import annotations

import itertools
import re
import string
import subprocess
import sys

import numpy as np
import pytest
import qdrant_edge
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.encoders.bm25 import TermCounter
from processor.ultimate_embedder.encoders.word_characters import word_ranges
from processor.ultimate_embedder.encoders.words import (
    STOP_WORDS,
    stemmer,
    token_id,
    word_profile,
)
from processor.ultimate_embedder.errors import UsageError


def _disagreements(texts: list[str], engine: qdrant_edge.Bm25) -> list[str]:
    counter = TermCounter("qdrant-word")
    wrong = []
    for start in range(0, len(texts), 4096):
        block = texts[start : start + 4096]
        counted = counter.count(block)
        rows = np.split(counted.ids, counted.indptr[1:-1])
        wrong += [
            text
            for text, ids in zip(block, rows, strict=True)
            if ids.tolist() != engine.embed_query(text).indices
        ]
    return wrong


def test_every_character_cuts_joins_and_lowers_as_in_the_engine(
    engine: qdrant_edge.Bm25,
) -> None:
    # Planes 4 to 13 are empty: their first and last characters stand for them.
    points = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
    points += [edge for p in range(4, 17) for edge in (p << 16, (p << 16) + 0xFFFF)]
    inside = [f"qz{chr(point)}qz" for point in points]
    assert _disagreements(inside, engine) == []


def test_word_ranges_ascend_and_do_not_touch() -> None:
    flat = list(itertools.chain.from_iterable(word_ranges()))
    assert all(a <= b for a, b in word_ranges())
    assert all(a + 1 < b for a, b in zip(flat[1:-1:2], flat[2::2], strict=True))


def test_stop_words_are_exactly_those_the_engine_drops(
    engine: qdrant_edge.Bm25, corpus: list[str]
) -> None:
    words = set(re.findall(r"[a-z]+", " ".join(corpus).lower())) | STOP_WORDS
    for length in (1, 2, 3):
        letters = itertools.product(string.ascii_lowercase, repeat=length)
        words |= {"".join(some) for some in letters}
    assert len(words) > 15_000
    dropped = {word for word in words if not engine.embed_query(word).indices}
    assert dropped == STOP_WORDS


def test_every_word_of_a_real_corpus_has_the_engines_stem(
    engine: qdrant_edge.Bm25, corpus: list[str]
) -> None:
    words = sorted(set(re.findall(r"\w+", " ".join(corpus))))
    assert len(words) > 5_000
    assert _disagreements(words, engine) == []


def test_lone_surrogates_separate_words() -> None:
    counter = TermCounter("qdrant-word")
    assert counter.token_ids("left\ud800right").tolist() == sorted(
        (token_id("left"), token_id("right"))
    )


@pytest.mark.parametrize("name", ["qdrant-word", "fastembed", "code"])
@given(
    st.text(
        st.sampled_from("aBzÉß9_-.,'’ \n\t\x00\x1f\x7f\x85\xa0ΣİſK—。中文🎉\ud800ⅷ²")
        | st.characters(exclude_categories=()),
        max_size=40,
    )
)
def test_cutting_bytes_first_gives_the_stems_of_the_whole_text(
    name: str, text: str
) -> None:
    profile, stem = word_profile(name), stemmer().stem_word
    whole = [s for run in profile.runs(text) for s in profile.stems(run, stem)]
    cut = [s for p in profile.pieces(text) for s in profile.piece_stems(p, stem)]
    assert cut == whole


def test_an_unknown_profile_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(UsageError, match=r"klingon.*qdrant-word, fastembed, code"):
        word_profile("klingon")


def test_counting_words_loads_no_model_library() -> None:
    code = (
        "import sys; import processor.ultimate_embedder.encoders.sparse_queries, "
        "processor.ultimate_embedder.stages.sparse; "
        "print([m for m in ('torch', 'transformers', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
