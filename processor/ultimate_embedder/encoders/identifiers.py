"""Identifiers to words: names in code, whole and in the parts they are written of.

A *segment* is what stands between underscores; its parts begin at a capital after a
small letter (`get|User`), at the last capital before small letters (`HTTP|Server`) and,
by the rules, where digits begin or end (`utf|8`). Capitals with a plural s stay one
part (`URLs`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from .word_characters import newer_small_letters

LONGEST_CUT: Final = 64
"""Characters of the longest segment that is cut: longer ones are encoded data."""

# Nothing here repeats, so each place of a text is looked at once.
_CASE = r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z](?!s\Z)[a-z])"
_DIGITS = r"(?<=[0-9])(?=[^0-9])|(?<=[^0-9])(?=[0-9])"

Lower = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class IdentifierRules:
    """Which words an identifier gives.

    `whole`: a segment is a word beside its parts. `joined`: so are all segments of the
    identifier in one, whereby `fooBar` meets `foo_bar`. `digits`: digits are cut from
    letters. `shortest`: parts with fewer characters are left out.
    """

    whole: bool = True
    joined: bool = True
    digits: bool = True
    shortest: int = 2

    def words(self, segments: Sequence[str], lower: Lower) -> list[str]:
        """Return the lower-case words of an identifier given as its segments."""
        found = [lower("".join(segments))] if self.joined and len(segments) > 1 else []
        for segment in segments:
            parts = self.parts(segment)
            if self.whole or len(parts) == 1:
                found.append(lower(segment))
            if len(parts) > 1:
                found += [lower(p) for p in parts if len(p) >= self.shortest]
        return found

    def parts(self, segment: str) -> list[str]:
        """Return the parts of a segment, in order; joined they are the segment."""
        if len(segment) > LONGEST_CUT:
            return [segment]
        shape = segment if segment.isascii() else _shape(segment)
        cuts = [found.start() for found in _boundaries(self.digits).finditer(shape)]
        return [
            segment[start:stop]
            for start, stop in zip([0, *cuts], [*cuts, len(segment)], strict=True)
        ]


@cache
def _boundaries(digits: bool) -> re.Pattern[str]:
    return re.compile(f"{_CASE}|{_DIGITS}" if digits else _CASE, re.DOTALL)


@cache
def _newer_letters() -> Mapping[str, str]:
    capitals = newer_small_letters()
    return MappingProxyType(
        {chr(capital): "A" for capital in capitals}
        | {chr(small): "a" for small in capitals.values()}
    )


def _shape(segment: str) -> str:
    """Return a segment with A for capitals beyond ASCII, a for small letters there and
    a dot for what has no case: as long, one character for one.
    """
    return "".join(c if c.isascii() else _letter_shape(c) for c in segment)


def _letter_shape(character: str) -> str:
    if character in _newer_letters():
        return _newer_letters()[character]
    if character.lower() != character:
        return "A"
    return "a" if character.upper() != character else "."
