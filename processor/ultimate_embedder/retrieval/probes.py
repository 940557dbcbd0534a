"""Known-item probes: queries drawn from a collection, each with the row that answers.

The draw follows from the content and a seed alone: a question's place is the hash of
its words, so neither the order of chunks nor a random generator's state matters. A
question that several chunks ask has no single answer and is left out.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from ..records import Chunk, Query
from .questions import find_question, same_question

PROBES = 200
RERANK_PROBES = 32

_SPARE = 4  # how many times the wanted number is held, some turn out asked twice


@dataclass(frozen=True, slots=True)
class Probe:
    """A query, the row that answers it, and that row's text without the query."""

    query: Query
    row: int
    masked_text: str


def draw_probes(
    chunks: Iterable[Chunk], count: int = PROBES, seed: int = 0
) -> list[Probe]:
    """Return at most `count` probes; fewer drawn with one seed are a prefix of more.

    `chunks` come in row order and are read once; memory is bounded by `count`.
    """
    kept: dict[int, Probe | None] = {}  # by place; None: asked by several chunks
    places: list[int] = []  # negated: the heap's top is the last place held
    capacity = max(1, _SPARE * max(count, PROBES))
    for row, chunk in enumerate(chunks):
        question = find_question(chunk)
        if question is None:
            continue
        place = _place(same_question(question.text), seed)
        if place in kept:
            kept[place] = None
            continue
        if len(places) == capacity and place > -places[0]:
            continue
        kept[place] = Probe(
            query=Query(f"probe-{place:016x}", question.text, (row,)),
            row=row,
            masked_text=question.masked_text,
        )
        heapq.heappush(places, -place)
        if len(places) > capacity:
            del kept[-heapq.heappop(places)]
    drawn = [kept[place] for place in sorted(kept)]
    return [probe for probe in drawn if probe is not None][:count]


def _place(question: str, seed: int) -> int:
    """Return 64 bits of BLAKE2b over the seed and the question's words."""
    content = f"{seed}\n{question}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
