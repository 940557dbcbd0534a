"""Probes: which chunks ask, what they ask, and that the draw follows from content."""

from __future__ import annotations

import random
from dataclasses import replace

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from processor.ultimate_embedder.records import Chunk, Metadata
from processor.ultimate_embedder.retrieval import probes as probing
from processor.ultimate_embedder.retrieval.probes import draw_probes
from processor.ultimate_embedder.retrieval.quality import figures
from processor.ultimate_embedder.retrieval.questions import find_question

BODY = "An index of this kind keeps the points of a segment in memory and on disk."
HAN = "\u8be5\u7d22\u5f15\u5c06\u6bb5\u4e2d\u7684\u70b9\u4fdd\u5b58" * 4
"""Chinese: this index keeps the points of a segment."""


def chunk(text: str, name: str = "a.md", index: int = 0, **metadata: object) -> Chunk:
    fields: Metadata = dict(metadata)
    return Chunk(f"c:s:{name}:chunk:{index}", "c", "s", name, index, text, fields)


ASKING = [
    (
        "a Markdown heading",
        chunk(f"## How payload indexes work\n\n{BODY}"),
        "How payload indexes work",
        BODY,
    ),
    (
        "a closed heading with markup, numbering and an anchor",
        chunk(f"\n### 3.1 Using `on_disk` with **HNSW** graphs {{#hnsw}} ###\n{BODY}"),
        "Using on_disk with HNSW graphs",
        BODY,
    ),
    (
        "a heading whose line break was lost",
        chunk(f"## System Purpose Here  {BODY}", heading_text="System Purpose Here"),
        "System Purpose Here",
        BODY,
    ),
    (
        "a heading with a link",
        chunk(f"# The [payload index](https://x.y/z) explained\n{BODY}"),
        "The payload index explained",
        BODY,
    ),
    (
        "an underlined heading",
        chunk(f"Filtering by payload\n====================\n\n{BODY}", "a.rst"),
        "Filtering by payload",
        BODY,
    ),
    (
        "a heading between two lines",
        chunk(
            "********************\nFiltering by payload\n********************\n" + BODY,
            "a.rst",
        ),
        "Filtering by payload",
        BODY,
    ),
    (
        "a docstring",
        chunk(
            "def top(scores: list[float],\n        k: int) -> list[int]:\n"
            '    """Select the best rows. Ties stand by\n    row.\n    """\n'
            "    order = sorted(range(len(scores)), key=scores.__getitem__)\n"
            "    return order[:k]\n",
            "a.py",
        ),
        "Select the best rows.",
        "def top(scores: list[float],\n        k: int) -> list[int]:\n"
        '    """ Ties stand by\n    row.\n    """\n'
        "    order = sorted(range(len(scores)), key=scores.__getitem__)\n"
        "    return order[:k]",
    ),
    (
        "a module's docstring over two lines",
        chunk(
            f"'''Reads postings\nfrom disk lazily'''\nTEXT = '{BODY}'",
            "m",
            language="python",
        ),
        "Reads postings from disk lazily",
        f"''''''\nTEXT = '{BODY}'",
    ),
    (
        "a heading without spaces",
        chunk("## \u8f7d\u8377\u7d22\u5f15\u914d\u7f6e\n\n" + HAN),
        "\u8f7d\u8377\u7d22\u5f15\u914d\u7f6e",
        HAN,
    ),
    (
        "a heading in two scripts",
        chunk("## HNSW \u7d22\u5f15\u914d\u7f6e\n\n" + HAN),
        "HNSW \u7d22\u5f15\u914d\u7f6e",
        HAN,
    ),
    (
        "a question",
        chunk(f"## How do I search without a vector?\n\n{BODY}"),
        "How do I search without a vector?",
        BODY,
    ),
    (
        "a title in front matter",
        chunk(f"---\ntitle: 'How payload indexes work'\nid: 3\n---\n{BODY}"),
        "How payload indexes work",
        f"---\n\nid: 3\n---\n{BODY}",
    ),
    (
        "a title in the metadata",
        chunk(BODY, title="How payload indexes work"),
        "How payload indexes work",
        BODY,
    ),
    (
        "a title that the text repeats",
        chunk(
            f"How payload indexes work. {BODY}\n\n**How payload indexes work**\n",
            title="How payload indexes work",
        ),
        "How payload indexes work",
        f". {BODY}",
    ),
    (
        "a JSDoc comment",
        chunk(
            "/**\n * Select the {@link Row best} rows of\n * a list. Ties stand.\n"
            " * @param k number\n */\nexport function top(scores, k) {\n"
            "  return order(scores).slice(0, k); // the first k of them\n}",
            "a.ts",
        ),
        "Select the Row best rows of a list.",
        "/**\n *  Ties stand.\n * @param k number\n */\n"
        "export function top(scores, k) {\n"
        "  return order(scores).slice(0, k); // the first k of them\n}",
    ),
    (
        "a Rust comment",
        chunk(
            "#[inline]\n/// Selects the best rows of a list\n///\n/// # Examples\n"
            "pub fn top(scores: &[f32], k: usize) -> Vec<usize> { order(scores) }",
            "m",
            language="rust",
        ),
        "Selects the best rows of a list",
        "#[inline]\n/// \n///\n/// # Examples\n"
        "pub fn top(scores: &[f32], k: usize) -> Vec<usize> { order(scores) }",
    ),
    (
        "a C# summary",
        chunk(
            "/// <summary>\n/// Selects the best rows.\n/// </summary>\n"
            "public int[] Top(float[] scores, int k) { return Order(scores, k); }",
            "a.cs",
        ),
        "Selects the best rows.",
        "/// <summary>\n/// \n/// </summary>\n"
        "public int[] Top(float[] scores, int k) { return Order(scores, k); }",
    ),
    (
        "a Go comment, which begins with the name",
        chunk(
            "// Copyright 2020 The Authors.\n\n// TopRows selects the best rows of a\n"
            "// list. Ties stand by row.\nfunc (l *List) TopRows(k int) []int {\n"
            "\treturn l.order(k) // a slice of at most k rows\n}",
            "a.go",
        ),
        "selects the best rows of a list.",
        "// Copyright 2020 The Authors.\n\n//  Ties stand by row.\n"
        "func (l *List) TopRows(k int) []int {\n"
        "\treturn l.order(k) // a slice of at most k rows\n}",
    ),
]


@pytest.mark.parametrize(
    ("asking", "question", "masked"),
    [case[1:] for case in ASKING],
    ids=[case[0] for case in ASKING],
)
def test_a_heading_or_docstring_asks_and_is_taken_out(
    asking: Chunk, question: str, masked: str
) -> None:
    (probe,) = draw_probes([asking], 10)
    assert (probe.query.text, probe.masked_text) == (question, masked)


SILENT = {
    "plain prose": chunk(BODY),
    "two words": chunk(f"# Payload index\n{BODY}"),
    "a generic heading": chunk(f"## Purpose and Scope\n{BODY}"),
    "another generic heading": chunk(f"## Table of Contents\n{BODY}"),
    "a heading alone": chunk("# How payload indexes work"),
    "a very long line": chunk(f"# {'word ' * 60}\n{BODY}"),
    "a heading further down": chunk(f"{BODY}\n\n# How payload indexes work\n{BODY}"),
    "a heading in metadata that is not there": chunk(
        BODY, heading_text="How payload indexes work"
    ),
    "a docstring outside Python": chunk(f'"""Select the best rows."""\n{BODY}'),
    "a comment in Python": chunk(f"x = 1\n# ------\n# {BODY}", "a.py"),
    "a comment above code": chunk(f"# keeps the cache warm\nTEXT = '{BODY}'", "a.py"),
    "a preprocessor's line": chunk(f"# define HAVE_A_CACHE yes\n// {BODY}", "a.c"),
    "a heading of words that fit any text": chunk(f"# How does it work?\n{BODY}"),
    "a contraction counted once": chunk(f"# What\u2019s new?\n{BODY}"),
    "a title of one of several chunks": chunk(BODY, title="How payload indexes work"),
    "four characters": chunk("# \u5b89\u88c5\u6307\u5357\n" + HAN),
    "a path": chunk(f"# guides/payload/indexes.md\n{BODY}"),
    "a licence": chunk(f"/** Copyright 2020 The Authors. */\nint f() // {BODY}", "a.c"),
    "a comment that nothing follows": chunk("/** Select the best rows. */", "a.ts"),
}


KINDS = {
    "a Markdown heading": "heading",
    "an underlined heading": "heading",
    "a question": "question",
    "a docstring": "docstring",
    "a Go comment, which begins with the name": "docstring",
    "a title in front matter": "title",
    "a title in the metadata": "title",
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_probe_tells_what_asked(name: str, kind: str) -> None:
    (asking,) = [case[1] for case in ASKING if case[0] == name]
    assert [probe.kind for probe in draw_probes([asking], 1)] == [kind]


def test_a_title_asks_for_its_file_only_where_that_is_one_chunk() -> None:
    titles = [("a.md", "one"), ("b.md", "two"), ("b.md", "two"), ("c.md", "three")]
    chunks = [
        chunk(f"{BODY} {i}", name, title=f"How payload index {number} works")
        for i, (name, number) in enumerate(titles)
    ]
    assert sorted(probe.row for probe in draw_probes(chunks, 10)) == [0, 3]


@pytest.mark.parametrize("silent", SILENT.values(), ids=SILENT.keys())
def test_what_is_generic_short_or_no_heading_asks_nothing(silent: Chunk) -> None:
    assert draw_probes([silent, chunk(BODY, silent.filename)], 10) == []


def corpus(size: int) -> list[Chunk]:
    return [
        chunk(f"# About topic number w{i} here\n\n{BODY} Variant {i}.", f"{i:05}.md")
        for i in range(size)
    ]


def test_probes_name_the_row_that_answers() -> None:
    chunks = corpus(500)
    probes = draw_probes(chunks, 200)
    assert len(probes) == 200
    for probe in probes:
        assert probe.query.relevant_rows == (probe.row,)
        assert probe.query.text in chunks[probe.row].text
        assert probe.query.text not in probe.masked_text
        assert probe.masked_text in chunks[probe.row].text
    assert len({probe.query.query_id for probe in probes}) == 200
    assert {len(probe.query.query_id) for probe in probes} == {len("probe-") + 16}


@given(st.integers(0, 2**20), st.integers(0, 300))
@settings(max_examples=15, deadline=None)
def test_the_draw_depends_on_neither_order_nor_number(seed: int, count: int) -> None:
    chunks = corpus(300)
    shuffled = random.Random(seed).sample(chunks, len(chunks))
    texts = [probe.query.text for probe in draw_probes(chunks, 200)]
    assert [p.query.text for p in draw_probes(shuffled, 200)] == texts
    fewer = [probe.query.text for probe in draw_probes(chunks, min(count, 200))]
    assert fewer == texts[: min(count, 200)]


def test_another_seed_draws_others() -> None:
    chunks = corpus(500)
    one, two = (
        {probe.row for probe in draw_probes(chunks, 100, seed)} for seed in (0, 1)
    )
    assert len(one & two) < 60


def test_more_chunks_than_are_held_still_give_the_smallest_places() -> None:
    chunks = corpus(3000)
    every = draw_probes(chunks, 3000)
    assert len(every) == 3000
    drawn = [probe.row for probe in draw_probes(chunks, 200)]
    assert drawn == [probe.row for probe in every][:200]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_probes_are_the_first_of_many_where_most_questions_repeat(
    count: int,
) -> None:
    single = corpus(20)
    repeated = [
        chunk(f"# About repeated w{i % 600} there\n\n{BODY} {i}.", f"r{i}.md")
        for i in range(1200)
    ]
    drawn = [probe.row for probe in draw_probes([*single, *repeated], 20)]
    assert len(drawn) > 5
    few = draw_probes([*single, *repeated], count)
    assert [probe.row for probe in few] == drawn[:count]


def test_a_question_asked_by_several_chunks_is_left_out() -> None:
    twice = [
        chunk(f"# How payload indexes work\n{BODY} {i}", f"{i}.md") for i in range(2)
    ]
    other = chunk(f"# how `Payload` indexes work!\n{BODY}", "other.md")
    single = chunk(f"# How segments are merged\n{BODY}", "single.md")
    probes = draw_probes([*twice, other, single], 10)
    assert [probe.row for probe in probes] == [3]


@pytest.mark.parametrize("turned", [False, True])
def test_a_chunk_too_short_to_answer_asks_all_the_same(turned: bool) -> None:
    """It is no answer that could be found, but it could be found for the question."""
    asking = [
        chunk(f"# How payload indexes work\n{BODY}", "long.md"),
        chunk("# How payload indexes work\nSee below.", "short.md"),
        chunk(f"# How segments are merged\n{BODY}", "single.md"),
    ]
    probes = draw_probes(asking[::-1] if turned else asking, 10)
    assert [probe.query.text for probe in probes] == ["How segments are merged"]


def test_of_more_than_are_held_the_short_ones_count_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "_SPARE", 2)
    chunks = corpus(900)
    short = [
        chunk(f"# About topic number w{i} here\n\nSee below.", f"short{i}.md")
        for i in range(0, 900, 3)
    ]
    drawn = draw_probes([*chunks, *short], 200)
    assert len(drawn) == 200
    assert all(probe.row % 3 for probe in drawn)
    turned = draw_probes([*short, *chunks][::-1], 200)
    assert [p.query.text for p in turned] == [p.query.text for p in drawn]


@pytest.mark.parametrize(("words", "drawn"), [(9, 0), (10, 1)])
def test_an_answer_has_at_least_ten_words_beside_the_question(
    words: int, drawn: int
) -> None:
    asking = chunk("# How payload indexes work\n" + "answer " * words)
    assert len(draw_probes([asking], 10)) == drawn


def test_files_of_one_name_in_two_folders_are_two_files() -> None:
    chunks = [
        replace(
            chunk(f"{BODY} {folder}", "a.md", title=f"How payload {folder} works"),
            source_subdir=folder,
        )
        for folder in ("indexing", "storage")
    ]
    assert sorted(probe.row for probe in draw_probes(chunks, 10)) == [0, 1]


def test_a_hostile_text_is_looked_at_in_little_time() -> None:
    hostile = ["def f" + ":#" * 400_000, "# " * 400_000, "=" * 800_000 + "\n"]
    hostile += ["/*!" * 270_000, "/// a\n" * 130_000, "word " * 160_000]
    for text in hostile:
        for name in ("a.py", "a.md", "a.go", "a.ts"):
            find_question(chunk(text, name))


ranks_given = st.lists(
    st.one_of(st.none(), st.integers(1, 100)), min_size=1, max_size=30
)


@given(ranks_given)
@settings(max_examples=25, deadline=None)
def test_figures_are_those_of_ir_measures(ranks: list[int | None]) -> None:
    qrels = [Qrel(str(i), "answer", 1) for i in range(len(ranks))]
    run = []
    for i, rank in enumerate(ranks):
        for place in range(1, 101):
            name = "answer" if place == rank else f"d{place}"
            run.append(ScoredDoc(str(i), name, float(1000 - place)))
    measures = [RR @ 10, nDCG @ 10, R @ 10, R @ 100]
    expected = ir_measures.calc_aggregate(measures, qrels, run)
    ours = figures("fused", ranks, depth=100)
    found = [ours.mrr_at_10, ours.ndcg_at_10, ours.recall_at_10, ours.recall_at_100]
    for measure, estimate in zip(measures, found, strict=True):
        assert estimate is not None
        assert estimate.value == pytest.approx(expected[measure])
        assert 0 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value - 1e-12 <= estimate.high <= 1


def test_an_interval_is_seeded_and_close_to_the_binomial_one() -> None:
    ranks = [1] * 150 + [None] * 50
    one = figures("dense", ranks, depth=100, seed=3)
    assert one == figures("dense", ranks, depth=100, seed=3)
    assert one.recall_at_10 is not None
    half = 1.96 * np.sqrt(0.75 * 0.25 / 200)
    assert one.recall_at_10.low == pytest.approx(0.75 - half, abs=0.015)
    assert one.recall_at_10.high == pytest.approx(0.75 + half, abs=0.015)


def test_a_measure_deeper_than_the_list_and_one_without_probes_are_absent() -> None:
    reranked = figures("reranked", [1, None], depth=20)
    assert reranked.recall_at_100 is None
    assert reranked.recall_at_10 is not None
    assert figures("dense", [], depth=100).mrr_at_10 is None
