"""Where a text may be cut, and how good each place is.

A structure finder reads a text once and returns a `Structure`. The splitter then picks
the cheapest set of cuts that keeps every chunk within the token limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

PROSE, LIST, TABLE, CODE, DATA = (
    "prose_section",
    "list_section",
    "table_section",
    "code_block",
    "data_section",
)
Path = tuple[str, ...]


class Cut(IntEnum):
    """Kinds of places to cut before, the best first."""

    TOP = 0  # heading of the first level, a page, a sheet
    SECTION = 1  # heading of the second level; a function or class of a module
    SUBSECTION = 2  # heading of the third level; a method
    DETAIL = 3  # a deeper heading
    BLOCK = 4  # paragraph, list, table, fence, top-level statement
    ITEM = 5  # list item
    PART = 6  # after a blank line within code or a list item
    LINE = 7
    SENTENCE = 8
    BOUND = 9  # belongs to the line before: a heading's first block, a closing brace
    WORD = 10
    ANYWHERE = 11


COSTS: npt.NDArray[np.float64] = np.array(
    [-1.25, -0.9, -0.6, -0.45, 0.0, 0.1, 0.25, 0.4, 0.6, 1.0, 1.5, 3.0]
)
"""What a cut of each kind costs; below zero, it is welcome. See `splitter.cheapest`."""


def heading_cut(level: int) -> Cut:
    """Return the kind of a heading of `level`, counted from 1."""
    return Cut(min(level - 1, Cut.DETAIL))


@dataclass(slots=True)
class Structure:
    """What a finder saw, each list ascending by position in the text (characters).

    `cuts`: (position, kind) of line starts. `sections`: (start, path) where the heading
    or symbol path changes. `blocks`: (start, content type) where the type changes.
    """

    cuts: list[tuple[int, Cut]] = field(default_factory=list)
    sections: list[tuple[int, Path]] = field(default_factory=list)
    blocks: list[tuple[int, str]] = field(default_factory=list)

    def cut(self, position: int, kind: Cut) -> None:
        """Add a place to cut before."""
        self.cuts.append((position, kind))

    def enter(self, position: int, path: Path) -> None:
        """Say that the text from `position` on stands under `path`."""
        self.sections.append((position, path))

    def block(self, position: int, kind: str) -> None:
        """Say that the text from `position` on is of content type `kind`."""
        if not self.blocks or self.blocks[-1][1] != kind:
            self.blocks.append((position, kind))


class Outline:
    """The path of headings above a place."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def open(self, level: int, title: str) -> Path:
        """Enter a heading: those of its level and deeper end. Return the new path."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, title))
        return tuple(title for _, title in self._open)
