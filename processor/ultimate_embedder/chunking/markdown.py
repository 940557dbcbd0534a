"""Structure of Markdown (CommonMark with pipe tables), in one pass over the lines.

A cut never falls right after a heading, a table's head or a line ending in a colon
while there is another place: what follows belongs to it.
"""

from __future__ import annotations

import re

from .plain import lines
from .structure import CODE, LIST, PROSE, TABLE, Cut, Outline, Structure, heading_cut

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r"[ \t>]*(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"([ \t]*)(?:[-*+]|\d{1,9}[.)])[ \t]")


def find(text: str) -> Structure:
    """Return the structure of a Markdown text."""
    return _Scan().run(text)


def open_fence(text: str) -> str | None:
    """Return the fence that the text leaves open, e.g. three backticks, if any."""
    scan = _Scan()
    scan.run(text)
    return scan.fence


def fence_for(code: str) -> str:
    """Return a fence longer than any run of backticks in the code."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    return "`" * (longest + 1)


class _Scan:
    """One pass; its state is what the lines so far say about the next one."""

    def __init__(self) -> None:
        self.found = Structure(blocks=[(0, PROSE)])
        self.outline = Outline()
        self.fence: str | None = None
        self.blank = True  # the line before is blank, or the text begins
        self.bound = False  # the next line belongs to the one before
        self.in_list = False
        self.table_rows = 0
        self.paragraph: tuple[int, str] | None = None  # a first line, perhaps a title

    def run(self, text: str) -> Structure:
        for start, line in lines(text):
            stripped = line.strip()
            if start == 0 and stripped == "---":
                self.found.cut(0, Cut.BLOCK)
                self.fence = "---"
            elif self.fence is not None:
                self._fenced(start, stripped)
            elif not stripped:
                self.blank, self.paragraph, self.table_rows = True, None, 0
            else:
                self._line(start, line.rstrip("\r\n"), stripped)
                self.blank = False
        return self.found

    def _fenced(self, start: int, stripped: str) -> None:
        closes = stripped.lstrip("> ")
        if (
            self.fence
            and closes.startswith(self.fence)
            and not closes.strip(self.fence[0])
        ):
            self.found.cut(start, Cut.BOUND)
            self.fence, self.blank, self.bound = None, True, False
        elif not stripped:
            self.blank = True
        else:
            self.found.cut(start, Cut.PART if self.blank else Cut.LINE)
            self.blank = False

    def _line(self, start: int, line: str, stripped: str) -> None:
        """Classify a line outside fences; the tests are ordered by precedence."""
        first = stripped[0]
        if first == "#" and (heading := _HEADING.match(line)):
            self._heading(start, len(heading[1]), heading[2] or "")
        elif first in "=-" and self.paragraph and (under := _UNDERLINE.match(line)):
            self._underline(1 if under[1][0] == "=" else 2)
        elif first in "`~>" and (fence := _FENCE.match(line)):
            self._block(start, CODE)
            self.fence, self.blank = fence[1], False
        elif first == "|":
            self._row(start)
        elif item := _ITEM.match(line):
            self._item(start, nested=len(item[1]) > 1)
        else:
            self._text(start, line)
        if stripped[-1] == ":":
            self.bound = True

    def _heading(self, start: int, level: int, title: str) -> None:
        self.found.cut(start, heading_cut(level))
        self.found.enter(start, self.outline.open(level, title.strip()))
        self.found.block(start, PROSE)
        self.bound, self.in_list, self.paragraph = True, False, None

    def _underline(self, level: int) -> None:
        """Turn the paragraph line before into the heading that it is."""
        assert self.paragraph is not None  # noqa: S101  asked by the caller
        start, title = self.paragraph
        self.found.cuts.pop()
        self._heading(start, level, title)

    def _block(self, start: int, kind: str) -> None:
        self.found.cut(start, Cut.BOUND if self.bound else Cut.BLOCK)
        self.found.block(start, kind)
        self.bound, self.paragraph = False, None
        self.in_list = self.in_list and kind != PROSE

    def _row(self, start: int) -> None:
        self.table_rows += 1
        if self.table_rows == 1:
            self._block(start, TABLE)
        else:  # the head's rule and the first row stay with the head
            self.found.cut(start, Cut.BOUND if self.table_rows <= 3 else Cut.LINE)

    def _item(self, start: int, *, nested: bool) -> None:
        if self.in_list:
            self.found.cut(start, Cut.PART if nested else Cut.ITEM)
            self.found.block(start, LIST)
            self.bound = False
        else:
            self._block(start, LIST)
            self.in_list = True
        self.paragraph = None

    def _text(self, start: int, line: str) -> None:
        if not self.blank and not self.bound:
            self.found.cut(start, Cut.LINE)
            self.paragraph = None
        elif self.in_list and line[0] in " \t":
            self.found.cut(start, Cut.PART)
            self.bound = False
        else:
            self._block(start, PROSE)
            self.paragraph = (start, line)
