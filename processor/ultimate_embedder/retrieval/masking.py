"""A chunk's text without the question that it answers.

Finding a question again where it was copied from proves nothing. So these are cut:

1. the place that the question was taken from,
2. every line that says the question and nothing else, and the question where the text
   begins with it (a title repeated),
3. anywhere, every run of five or more words that stand in the question in a row.

Shorter runs stay: they are how the text speaks of its subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .wording import Unit, length, units

LONGEST_COPY = 5
"""Words: a run of so many words of the question does not stay in the text."""


def without_question(text: str, question: str, span: tuple[int, int]) -> str:
    """Return `text` without `span`, and without repetitions of the question."""
    asked = [unit.text for unit in units(question)]
    left = (text[: span[0]] + text[span[1] :]).strip()
    if not asked:
        return left
    left = _without_repeated_lines(left, asked)
    while copied := list(_copies(list(units(left)), asked)):
        for start, end in reversed(copied):
            left = left[:start] + left[end:]
        left = left.strip()
    return left


def _without_repeated_lines(text: str, asked: Sequence[str]) -> str:
    """Cut lines that say the question alone."""
    longest = 4 * sum(map(len, asked)) + 80  # room for markup; others are not read
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if len(line) > longest or [unit.text for unit in units(line)] != asked
    ).strip()


def _copies(said: Sequence[Unit], asked: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield spans that hold nothing but long runs of the question, in their order."""
    words = [unit.text for unit in said]
    marked = [False] * len(words)
    if words[: len(asked)] == list(asked):
        marked[: len(asked)] = [True] * len(asked)
    runs = _long_runs(asked)
    for place, word in enumerate(words):
        for run in runs.get(word, ()):
            if words[place : place + len(run)] == run:
                marked[place : place + len(run)] = [True] * len(run)
    first = None
    for place, inside in enumerate([*marked, False]):
        if inside and first is None:
            first = place
        elif not inside and first is not None:
            yield said[first].start, said[place - 1].end
            first = None


def _long_runs(asked: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return by their first word the shortest runs of at least `LONGEST_COPY` words."""
    runs: dict[str, list[list[str]]] = {}
    for start in range(len(asked)):
        end = start
        while end < len(asked) and length(asked[start:end]) < LONGEST_COPY:
            end += 1
        if length(asked[start:end]) >= LONGEST_COPY:
            runs.setdefault(asked[start], []).append(list(asked[start:end]))
    return runs
