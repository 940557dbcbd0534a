"""What holds for the chunks of any text, whatever the tokenizer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from processor.ultimate_embedder.chunking import code, markdown, plain, rst
from processor.ultimate_embedder.chunking.splitter import (
    CHARACTERS_PER_TOKEN,
    CHUNK_COST,
    Span,
    _counted,
    cheapest,
    split,
)
from processor.ultimate_embedder.chunking.structure import COSTS, Cut, Structure
from processor.ultimate_embedder.chunking.tokens import MIN_BUDGET, TokenCounter
from processor.ultimate_embedder.errors import UsageError

PIECES = st.sampled_from(
    [
        "word ",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "# Title\n",
        "## Two\n\n",
        "- item\n",
        "```\ncode()\n```\n",
        "| a | b |\n",
        "def f():\n    return 1\n",
        "A sentence ends. ",
        "x" * 41,
        "y" * 150,
        "東京都庁。",
        "🎉👩‍👩‍👧",
        "e\u0301" * 5,
        "\u0000",
        "\x1c",
        "\u2028",
        "\u00a0",
        "ﷺ",
        "[SEP]",
        "[CLS] ",
        " " * 50,
        "a,b;c.d" * 10,
        '{"k":[1,2]},',
        "ΑΣ",
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=120).map("".join)
LIMITS = st.integers(MIN_BUDGET + 4, 80)
FINDERS = st.sampled_from([markdown.find, plain.find, rst.find, lambda _: Structure()])


def _covered(text: str, spans: list[Span]) -> bool:
    inside = np.zeros(len(text), bool)
    for span in spans:
        inside[span.start : span.end] = True
    return all(inside[at] or character.isspace() for at, character in enumerate(text))


def _alone(backend: Tokenizer, text: str) -> int:
    return len(backend.encode(text).ids)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    text=TEXTS.map(lambda text: text.encode("utf-8", "replace").decode("utf-8")),
    limit=LIMITS,
    overlap=st.sampled_from([0, 0, 7]),
    prompt=st.sampled_from(["", "passage: ", "doc:"]),
    find=FINDERS,
)
@example("", 64, 0, "", plain.find)
@example("x" * 5000, 40, 0, "", plain.find)
@example("🎉" * 3000, 40, 7, "doc:", markdown.find)
@example(" " * 9000 + "end", 40, 0, "", plain.find)
@example("\u0000" * 3000, 40, 0, "", plain.find)
@example("ﷺ" * 400, 40, 0, "", plain.find)
def test_any_text_is_covered_by_chunks_within_the_limit(
    backend, text, limit, overlap, prompt, find
) -> None:
    counter = TokenCounter(backend, limit + 8, prompt)
    spans = split(text, find(text), counter, overlap)
    assert _covered(text, spans)
    for span in spans:
        assert text[span.start : span.end].strip()
        assert span.tokens <= limit + 8
        assert span.tokens == _alone(backend, prompt + text[span.start : span.end])
        assert span.end - span.start <= (limit + 8) * CHARACTERS_PER_TOKEN
    assert spans == split(text, find(text), counter, overlap)
    if not overlap:
        assert all(one.end <= two.start for one, two in pairwise(spans))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=TEXTS, language=st.sampled_from(sorted(code.GRAMMARS)))
def test_any_text_taken_for_code_is_covered(counter, text, language) -> None:
    spans = split(text, code.find(text, language), counter)
    assert _covered(text, spans)


def _brute(kinds: list[int], tokens: list[int], limit: int) -> float:
    """Try every set of cuts."""
    last = len(kinds) - 1
    best = float("inf")
    for chosen in range(2 ** max(0, last - 1)):
        cuts = [0, *(i for i in range(1, last) if chosen >> (i - 1) & 1), last]
        sizes = [tokens[b] - tokens[a] for a, b in pairwise(cuts)]
        if max(sizes) <= limit:
            best = min(best, _cost(cuts, kinds, sizes, limit))
    return best


def _cost(cuts: list[int], kinds: list[int], sizes: list[int], limit: int) -> float:
    fills = (max(0.0, 1 - 2 * size / limit) ** 2 for size in sizes)
    return sum(COSTS[kinds[cut]] for cut in cuts[1:]) + sum(
        CHUNK_COST + fill for fill in fills
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from(list(Cut))),
        min_size=1,
        max_size=9,
    )
)
def test_the_cuts_are_the_cheapest_of_all(steps) -> None:
    limit = 40
    tokens = [0, *np.cumsum([size for size, _ in steps]).tolist()]
    kinds = [int(Cut.TOP), *(int(kind) for _, kind in steps)]
    positions = np.array(tokens)
    bounds = cheapest(positions, np.array(kinds), np.array(tokens), limit)
    cuts = [tokens.index(bound) for bound in bounds]
    sizes = [b - a for a, b in pairwise(bounds)]
    assert max(sizes) <= limit
    assert _cost(cuts, kinds, sizes, limit) == pytest.approx(
        _brute(kinds, tokens, limit)
    )


def test_a_long_line_is_tokenised_once_and_counted_where_it_was_cut(backends) -> None:
    passes = []

    class Watched:
        """The embedded tokenizer, telling how many characters it was given."""

        def __getattr__(self, name: str):
            return getattr(backends["wordpiece"], name)

        def encode_batch(self, texts, **options):
            passes.append(sum(map(len, texts)))
            return backends["wordpiece"].encode_batch(texts, **options)

        def encode_batch_fast(self, texts):
            passes.append(sum(map(len, texts)))
            return backends["wordpiece"].encode_batch_fast(texts)

    watched = TokenCounter(Watched(), 256)
    for unit in ("word ", "x", "no-blank,", "東"):
        text = unit * (400_000 // len(unit))
        passes.clear()
        spans = split(text, plain.find(text), watched)
        assert _covered(text, spans)
        assert sum(passes) <= 2.2 * len(text)
        assert max(passes) <= 300_000  # pieces: the memory does not grow with the line


@pytest.mark.slow
def test_a_line_of_20_megabytes_is_split(counter) -> None:
    text = '{"key": [1, 2, 3]},' * (20_000_000 // 19)
    spans = split(text, plain.find(text), counter)
    assert sum(span.end - span.start for span in spans) == len(text)
    assert max(span.tokens for span in spans) <= 256


def test_an_overlap_repeats_whole_words_of_the_chunk_before(counter) -> None:
    text = " ".join(f"word{number}" for number in range(2000))
    spans = split(text, plain.find(text), counter, overlap=20)
    for one, two in pairwise(spans):
        assert one.start < two.start < one.end
        assert text[two.start - 1] == " "
        assert len(counter._backend.encode(text[two.start : one.end]).ids) <= 22


KOREAN = (
    "벡터 검색은 문서를 숫자 목록으로 바꾸고 가까운 것을 찾는다. "
    "색인은 그래프로 만들어지며 질의는 그 위를 걷는다. "
)


@pytest.mark.parametrize("overlap", [16, 32, 64])
def test_an_overlap_counts_all_tokens_that_begin_at_one_character(
    counter, backends, overlap
) -> None:
    text = KOREAN * 100
    spans = split(text, plain.find(text), counter, overlap)
    for span in spans:
        alone = _alone(backends["wordpiece"], text[span.start : span.end])
        assert span.tokens == alone <= counter.max_tokens
    for one, two in pairwise(spans):
        if two.start < one.end:
            repeated = text[two.start : one.end]
            assert _alone(backends["wordpiece"], repeated) <= overlap + 2


def test_a_chunk_between_blanks_that_is_over_the_limit_is_halved(counter) -> None:
    text = _words(400).strip()
    spans = _counted(text, [(0, len(text))], counter.starts(text), counter)
    assert len(spans) > 1
    assert _covered(text, spans)
    assert max(span.tokens for span in spans) <= counter.max_tokens


def test_a_limit_without_room_for_text_is_refused(backend) -> None:
    with pytest.raises(UsageError, match="at least"):
        TokenCounter(backend, MIN_BUDGET - 1)


@pytest.mark.parametrize("overlap", [-1, 200])
def test_an_impossible_overlap_is_refused(counter, overlap) -> None:
    with pytest.raises(UsageError, match="overlap"):
        split("text", plain.find("text"), counter, overlap)


def _words(number: int) -> str:
    return "word " * number


def _titles(text: str, counter: TokenCounter) -> list[str]:
    spans = split(text, markdown.find(text), counter)
    return [text[span.start :].split("\n", 1)[0] for span in spans]


def test_a_section_that_fits_is_not_cut(counter) -> None:
    text = "".join(f"## S{n}\n\n{_words(75)}\n\n{_words(75)}\n\n" for n in range(5))
    assert _titles(text, counter) == [f"## S{n}" for n in range(5)]


def test_small_sections_are_joined(counter) -> None:
    text = "".join(f"## S{n}\n\n{_words(30)}\n\n" for n in range(6))
    assert _titles(text, counter) == ["## S0", "## S2", "## S4"]


def test_sections_of_the_first_level_stay_apart(counter) -> None:
    text = "".join(f"# S{n}\n\n{_words(40)}\n\n" for n in range(4))
    assert _titles(text, counter) == [f"# S{n}" for n in range(4)]


def test_a_heading_keeps_its_first_paragraph(counter) -> None:
    text = f"## A\n\n{_words(120)}\n\n## B\n\n{_words(200)}\n\n{_words(120)}\n"
    assert _titles(text, counter)[:2] == ["## A", "## B"]
    spans = split(text, markdown.find(text), counter)
    assert all(text[span.start : span.end].count("\n") != 0 for span in spans[:2])


def test_a_section_too_long_is_cut_into_parts_of_similar_size(counter) -> None:
    text = "## A\n\n" + f"{_words(20)}\n\n" * 15
    sizes = [span.tokens for span in split(text, markdown.find(text), counter)]
    assert len(sizes) == 2
    assert min(sizes) > 100
