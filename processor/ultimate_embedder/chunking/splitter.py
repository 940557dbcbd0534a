"""One pass over the token positions of a text; the cheapest cuts within the limit.

The cost of a set of cuts is the sum of

- for each cut the cost of its kind (`structure.COSTS`): negative at headings and
  definitions, zero between paragraphs, high within sentences and words;
- for each chunk 0.3, plus (1 - 2 f)^2 when it fills less than half (f < 0.5) of the
  limit.

So small neighbours are joined as long as that saves more than the cut between them is
welcome: with a limit of 256, sections of the second level are joined when both have
fewer than about 55 tokens or one has fewer than about 30, those of the first level
only when both are mere stubs (about 20). A section that fits is not cut in two, and
one that does not fit is cut into parts of similar size rather than into a full one and
a rest. The search looks back one limit from each candidate, and candidates are thinned
to `RESOLUTION` per limit: linear time.

A chunk is then counted alone, unless the pass has counted it already: with a tokenizer
whose words are independent, that is every chunk between two blanks. One that turns out
over the limit (a word cut in two can give more tokens than before) is halved until it
fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .structure import COSTS, Cut, Structure
from .tokens import SAFE_BLANKS, TokenCounter, TokenStarts

CHUNK_COST = 0.3
RESOLUTION = 32
CHARACTERS_PER_TOKEN = 16
"""Limit of a chunk in characters, per token of the limit: a run of blanks, or a word
too long for the vocabulary, is one token or none however long it is."""

_SENTENCE_END = re.compile(r"[.!?…][)\"'’”\]]*\s+|[。！？；]|[}\])],")
_WORD_START = re.compile(r"(?<=\s)\S")
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk is `text[start:end]`; `tokens` counts special tokens and prompt."""

    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Shapes: [candidates], ascending; the first and the last are the text's ends."""

    positions: Indices
    kinds: Indices
    tokens: Indices  # that begin before the position

    def gaps(self, limit: int, characters: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the stretches too large for one chunk."""
        large = (np.diff(self.tokens) > limit) | (np.diff(self.positions) > characters)
        for index in np.flatnonzero(large):
            yield int(self.positions[index]), int(self.positions[index + 1])


def split(
    text: str, structure: Structure, counter: TokenCounter, overlap: int = 0
) -> list[Span]:
    """Return the chunks of a text in order, none over the counter's limit.

    Every character that is not blank is in at least one chunk. With `overlap`, a chunk
    repeats up to that many tokens of the one before, from the start of a word.

    Raises:
        UsageError: the overlap takes more than half of the limit.
    """
    counter.check_overlap(overlap)
    starts = counter.starts(text)
    limit = counter.budget - overlap
    candidates = _candidates(text, structure, starts, limit)
    bounds = cheapest(candidates.positions, candidates.kinds, candidates.tokens, limit)
    trimmed = _trimmed(text, bounds)
    if overlap:
        trimmed = _overlapped(text, trimmed, starts, overlap)
    return _counted(text, trimmed, starts, counter)


def _candidates(
    text: str, structure: Structure, starts: TokenStarts, limit: int
) -> _Candidates:
    """Return the places to choose from: finer ones only where coarser ones lack."""
    characters = limit * CHARACTERS_PER_TOKEN
    cuts = structure.cuts
    found = _thinned(
        np.array([0, len(text), *(position for position, _ in cuts)], np.int64),
        np.array([Cut.TOP, Cut.TOP, *(kind for _, kind in cuts)], np.int64),
        starts,
        limit,
    )
    finer: tuple[tuple[Cut, Callable[[int, int], Sequence[int] | Indices]], ...] = (
        (
            Cut.SENTENCE,
            lambda a, b: [m.end() for m in _SENTENCE_END.finditer(text, a, b)],
        ),
        (Cut.WORD, lambda a, b: [m.start() for m in _WORD_START.finditer(text, a, b)]),
        (Cut.ANYWHERE, lambda a, b: _anywhere(a, b, starts, limit)),
    )
    for kind, places in finer:
        added = [places(start, end) for start, end in found.gaps(limit, characters)]
        if not added:
            break
        positions = np.concatenate([found.positions, *added]).astype(np.int64)
        kinds = np.full(len(positions), kind, np.int64)
        kinds[: len(found.kinds)] = found.kinds
        found = _thinned(positions, kinds, starts, limit)
    return found


def _anywhere(start: int, end: int, starts: TokenStarts, limit: int) -> Indices:
    """Return token starts in the stretch, and places within tokens without end."""
    first, last = starts.before([start, end])
    step = limit * CHARACTERS_PER_TOKEN // RESOLUTION
    return np.concatenate([starts.starts[first:last], np.arange(start, end, step)])


def _thinned(
    positions: Indices, kinds: Indices, starts: TokenStarts, limit: int
) -> _Candidates:
    """Sort, and keep the best candidate of each 1/RESOLUTION of the limit."""
    order = np.lexsort((kinds, positions))
    positions, kinds = positions[order], kinds[order]
    tokens = starts.before(positions)
    step = max(1, limit // RESOLUTION)
    characters = max(1, limit * CHARACTERS_PER_TOKEN // RESOLUTION)
    bucket = tokens // step + positions // characters
    best = np.lexsort((positions, COSTS[kinds], bucket))
    leaders = best[np.flatnonzero(np.diff(bucket[best], prepend=-1))]
    keep = np.unique(np.concatenate([[0], leaders, [len(positions) - 1]]))
    keep = keep[np.flatnonzero(np.diff(positions[keep], prepend=-1))]
    return _Candidates(positions[keep], kinds[keep], tokens[keep])


def cheapest(
    positions: Indices, kinds: Indices, tokens: Indices, limit: int
) -> list[int]:
    """Return the positions of the cheapest cuts, both ends included.

    Dynamic programming over the candidates; of equal costs the earliest cut wins.
    """
    fill = 2.0 * np.arange(limit + 1) / limit
    size_cost: list[float] = (CHUNK_COST + np.maximum(0.0, 1.0 - fill) ** 2).tolist()
    place, count = positions.tolist(), tokens.tolist()
    cut_cost = COSTS[kinds].tolist()
    characters = limit * CHARACTERS_PER_TOKEN
    total, came_from = [0.0], [0]
    low = 0
    for here in range(1, len(place)):
        now = count[here]
        while low < here - 1 and (
            now - count[low] > limit or place[here] - place[low] > characters
        ):
            low += 1
        best, origin = min(
            (total[back] + size_cost[min(limit, now - count[back])], back)
            for back in range(low, here)
        )
        total.append(best + cut_cost[here])
        came_from.append(origin)
    bounds = [len(place) - 1]
    while bounds[-1]:
        bounds.append(came_from[bounds[-1]])
    return [place[index] for index in reversed(bounds)]


def _trimmed(text: str, bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Drop blank lines before and blanks after each chunk, and chunks all blank.

    The indentation of a chunk's first line stays.
    """
    spans = []
    for start, end in pairwise(bounds):
        piece = text[start:end]
        body = piece.lstrip()
        if body:
            lead = len(piece) - len(body)
            line = max(piece.rfind("\n", 0, lead), piece.rfind("\r", 0, lead)) + 1
            spans.append((start + line, start + len(piece.rstrip())))
    return spans


def _overlapped(
    text: str, spans: list[tuple[int, int]], starts: TokenStarts, overlap: int
) -> list[tuple[int, int]]:
    """Move the starts back over whole words, at most `overlap` tokens.

    Several tokens may begin at one place (those of a Korean syllable do): all of them
    count, also where only the last are within reach.
    """
    moved = spans[:1]
    for (before, _), (start, end) in pairwise(spans):
        last = int(starts.before(start))
        earlier = starts.starts[max(0, last - overlap) : last].tolist()
        words = (
            at
            for at in earlier
            if at > before
            and text[at - 1] in SAFE_BLANKS
            and last - int(starts.before(at)) <= overlap
        )
        moved.append((next(words, start), end))
    return moved


def _counted(
    text: str,
    spans: list[tuple[int, int]],
    starts: TokenStarts,
    counter: TokenCounter,
) -> list[Span]:
    """Count each chunk alone; halve those over the limit until none is."""
    done: list[Span] = []
    unsure = []
    for (start, end), tokens in zip(spans, _between(spans, starts), strict=True):
        total = tokens + counter.overhead
        known = starts.exact and _at_blanks(text, start, end)
        if known and total <= counter.max_tokens:
            done.append(Span(start, end, total))
        else:
            unsure.append((start, end))
    while unsure:
        counts = counter.counts([text[start:end] for start, end in unsure])
        over = []
        for (start, end), tokens in zip(unsure, counts, strict=True):
            if tokens <= counter.max_tokens:
                done.append(Span(start, end, tokens))
            else:
                over.append((start, end))
        unsure = [half for span in over for half in _halves(text, *span)]
    return sorted(done, key=lambda span: (span.start, span.end))


def _between(spans: list[tuple[int, int]], starts: TokenStarts) -> list[int]:
    edges = starts.before(np.array(spans, np.int64).reshape(-1, 2))
    counts: list[int] = (edges[:, 1] - edges[:, 0]).tolist()
    return counts


def _at_blanks(text: str, start: int, end: int) -> bool:
    """Do blanks, or the ends of the text, stand on both sides?"""
    return (start == 0 or text[start - 1] in SAFE_BLANKS) and (
        end == len(text) or text[end] in SAFE_BLANKS
    )


def _halves(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a stretch near its middle, at a blank if one stands in its middle half."""
    middle, quarter = (start + end) // 2, (end - start) // 4
    blank = text.rfind(" ", middle - quarter, middle + quarter)
    return _trimmed(text, (start, blank + 1 if blank > 0 else middle, end))
