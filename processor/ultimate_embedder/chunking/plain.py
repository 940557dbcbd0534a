"""Structure of plain text: pages at form feeds, paragraphs at blank lines, lists."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from .structure import LIST, PROSE, Cut, Structure

LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t]")


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (start, line with its end); a line ends at \\n, \\r\\n or \\r only."""
    position = 0
    for line in io.StringIO(text, newline=""):
        yield position, line
        position += len(line)


def find(text: str) -> Structure:
    """Return the structure of a plain text."""
    found = Structure(blocks=[(0, PROSE)])
    blank = True
    for start, line in lines(text):
        if not line.strip():
            blank = True
            continue
        if line[0] == "\f":
            found.cut(start, Cut.TOP)
        elif LIST_ITEM.match(line):
            found.cut(start, Cut.BLOCK if blank else Cut.ITEM)
            found.block(start, LIST)
        elif blank:
            indented = line[0] in " \t"
            found.cut(start, Cut.ITEM if indented else Cut.BLOCK)
            if not indented:
                found.block(start, PROSE)
        else:
            found.cut(start, Cut.LINE)
        blank = False
    return found
