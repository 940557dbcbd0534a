"""A masked text says the question no more."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.records import Chunk
from processor.ultimate_embedder.retrieval.masking import without_question
from processor.ultimate_embedder.retrieval.probes import draw_probes

LONG = "How the payload index of a segment is built"
NOWHERE = (0, 0)


def plain_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    words = plain_words(text)
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


few_words = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=9)
signs = st.sampled_from([" ", "\n", ", ", "** ", "_", ". "])


@settings(max_examples=200, deadline=None)
@given(few_words, st.lists(st.tuples(few_words, signs), max_size=12))
@example(list("abcdacb"), [(list("abcda"), " "), (list("abcdabbb"), " ")])
def test_no_five_words_of_a_question_stay_in_a_row(
    asked: list[str], said: list[tuple[list[str], str]]
) -> None:
    question = " ".join(asked)
    text = "".join(sign.join(words).upper() + sign for words, sign in said)
    left = without_question(text, question, NOWHERE)
    assert not runs(left, 5) & runs(question, 5)
    assert plain_words(left)[: len(asked)] != asked
    assert asked not in [plain_words(line) for line in left.splitlines()]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="xyz \n", max_size=60))
def test_a_text_that_shares_no_word_stays_as_it_is(text: str) -> None:
    assert without_question(text, LONG, NOWHERE) == text.strip()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"# {LONG}\nFirst of all.", "First of all."),
        (f"First.\n\n**{LONG.upper()}**\n\nLast.", "First.\n\n\nLast."),
        (
            f"We say {LONG.lower().replace(' ', chr(10), 3)} here.",
            "We say  here.",
        ),
        (
            "It tells how the payload index of segments is kept.",
            "It tells  segments is kept.",
        ),
        (
            "It tells how the payload index is kept, of a segment.",
            "It tells how the payload index is kept, of a segment.",
        ),
    ],
    ids=[
        "a heading of its own",
        "a line in other letters",
        "over line ends",
        "five words of it",
        "shorter runs stay",
    ],
)
def test_what_repeats_the_question_is_cut(text: str, left: str) -> None:
    assert without_question(text, LONG, NOWHERE) == left


def test_a_short_question_stays_where_a_sentence_says_it() -> None:
    text = "Every payload index setting has a default.\nPayload index setting\nEnd."
    left = "Every payload index setting has a default.\nEnd."
    assert without_question(text, "Payload index setting", NOWHERE) == left


def test_ten_characters_without_spaces_count_as_five_words() -> None:
    question = "\u8f7d\u8377\u7d22\u5f15\u5728\u6bb5\u4e2d\u5982\u4f55\u6784\u5efa"
    kept = f"\u672c\u6587{question[:9]}\u3002"
    assert without_question(kept, question, NOWHERE) == kept
    cut = f"\u672c\u6587{question[:10]}\u3002"
    assert without_question(cut, question, NOWHERE) == "\u672c\u6587\u3002"


def test_no_probe_of_a_collection_keeps_five_words_of_its_question() -> None:
    body = "It keeps points in memory, and on disk where that was asked for by anyone."
    chunks = [
        Chunk(
            f"c:s:{i}.md:chunk:0",
            "c",
            "s",
            f"{i}.md",
            0,
            f"# How part {i} of it is built\n\n{body}\nHow part {i} of it is built is "
            f"told here.\n> How part {i} of it is built\n",
            {"title": f"How part {i} of it is built"},
        )
        for i in range(20)
    ]
    probes = draw_probes(chunks, 20)
    assert len(probes) == 20
    for probe in probes:
        assert not runs(probe.masked_text, 5) & runs(probe.query.text, 5)
        assert body in probe.masked_text
