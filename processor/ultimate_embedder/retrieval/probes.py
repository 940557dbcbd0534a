"""Known-item probes: queries drawn from a collection, each with the row that answers.

The draw follows from the content and a seed alone: a question's place is the hash of
its words, so neither the order of chunks nor a random generator's state matters. A
question that several chunks ask has no single answer and is left out.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ..records import Chunk, Query
from .masking import without_question
from .questions import Kind, Question, find_question
from .wording import units, word_count

PROBES = 200
RERANK_PROBES = 32
MIN_ANSWER_WORDS = 10

_SPARE = 8  # how many times the wanted number is held: some are not to be drawn
_COUNTED = 2_000  # characters: enough to see that an answer is long enough


@dataclass(frozen=True, slots=True)
class Probe:
    """A query, the row that answers it, and that row's text without the query."""

    query: Query
    row: int
    masked_text: str
    kind: Kind


def draw_probes(
    chunks: Iterable[Chunk], count: int = PROBES, seed: int = 0
) -> list[Probe]:
    """Return at most `count` probes; fewer drawn with one seed are a prefix of more.

    `chunks` come in row order and are read once; memory is bounded by `count`.
    """
    kept: dict[int, _Asked | None] = {}  # by place; None: not to be drawn
    places: list[int] = []  # negated: the heap's top is the last place held
    capacity = max(1, _SPARE * max(count, PROBES))
    for row, (chunk, alone) in enumerate(_with_company(chunks)):
        question = find_question(chunk, alone=alone)
        if question is None:
            continue
        place = _place(_same(question.text), seed)
        if place in kept:
            kept[place] = None  # asked by several chunks
            continue
        if len(places) == capacity and place > -places[0]:
            continue
        kept[place] = _Asked(row, chunk.text, question)
        heapq.heappush(places, -place)
        if len(places) > capacity:
            del kept[-heapq.heappop(places)]
    drawn = (_probe(place, kept[place]) for place in sorted(kept))
    return list(islice((probe for probe in drawn if probe is not None), count))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A row, its text, and the question that it answers."""

    row: int
    text: str
    question: Question


def _probe(place: int, asked: _Asked | None) -> Probe | None:
    """Return None where nobody asks alone, or what is left is too short to answer."""
    if asked is None:
        return None
    question = asked.question
    masked = without_question(asked.text, question.text, question.span)
    if word_count(masked[:_COUNTED]) < MIN_ANSWER_WORDS:
        return None
    query = Query(f"probe-{place:016x}", question.text, (asked.row,))
    return Probe(query, asked.row, masked, question.kind)


def _with_company(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, bool]]:
    """Yield each chunk, and whether no chunk beside it is of the same file."""
    held: Chunk | None = None
    alone = True
    for chunk in chunks:
        if held is not None:
            beside = file_of(held) == file_of(chunk)
            yield held, alone and not beside
            alone = not beside
        held = chunk
    if held is not None:
        yield held, alone


def file_of(chunk: Chunk) -> tuple[str, str]:
    """Return what tells the file that a chunk is of."""
    return chunk.source_subdir, chunk.filename


def _same(question: str) -> str:
    """Return a form that is equal for questions which differ in case or signs only."""
    return " ".join(unit.text for unit in units(question))


def _place(question: str, seed: int) -> int:
    """Return 64 bits of BLAKE2b over the seed and the question's words."""
    content = f"{seed}\n{question}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
