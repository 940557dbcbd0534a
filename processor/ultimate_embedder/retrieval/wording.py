"""Words of a text as questions count and compare them, in any script.

Scripts without spaces (Han, Kana, Thai, Lao, Khmer, Burmese) give no words to count:
there two characters count as one word, which is about what a Chinese word has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_UNSPACED = (
    "\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u109f\u1780-\u17d3"
    "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(f"[{_UNSPACED}]")
_SPACED_WORD = re.compile(
    rf"[^\W\d_{_UNSPACED}][^\W{_UNSPACED}]*(?:['\u2019][^\W{_UNSPACED}]+)*"
)
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Unit:
    """A word, or a character of a script without spaces, and where it stands."""

    text: str
    start: int
    end: int


def units(text: str) -> Iterator[Unit]:
    """Yield the words of a text without regard to case, underscores and signs."""
    for match in _UNIT.finditer(text):
        yield Unit(match[0].casefold(), match.start(), match.end())


def spaced_words(text: str) -> list[str]:
    """Return the words that begin with a letter, of scripts that write spaces."""
    return _SPACED_WORD.findall(text)


def unspaced_characters(text: str) -> int:
    """Return how many characters belong to scripts without spaces."""
    return len(_CHARACTER.findall(text))


def word_count(text: str) -> int:
    """Return how many words there are, two unspaced characters counting as one."""
    return len(spaced_words(text)) + unspaced_characters(text) // 2


def length(units_in_a_row: Sequence[str]) -> float:
    """Return the length in words of some units: half a word for a lone character."""
    return sum(0.5 if _CHARACTER.match(unit) else 1.0 for unit in units_in_a_row)
