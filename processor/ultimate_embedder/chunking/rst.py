"""Structure of reStructuredText: titles, paragraphs, lists, tables, literal blocks.

A title is a line with a rule of punctuation below, perhaps also above; the levels
follow from the order in which the kinds of rule appear.
"""

from __future__ import annotations

import re

from .plain import LIST_ITEM, lines
from .structure import CODE, LIST, PROSE, TABLE, Cut, Outline, Structure, heading_cut

_RULE = re.compile(r"([!-/:-@[-`{-~])\1+$")
_TABLE = re.compile(r"[+|]|=+ +=")


def find(text: str) -> Structure:
    """Return the structure of a reStructuredText."""
    found = Structure(blocks=[(0, PROSE)])
    titles = _titles(text, found)
    blank, literal = True, False
    for start, line in lines(text):
        stripped = line.strip()
        if not stripped:
            blank = True
            continue
        indented = line[0] in " \t"
        literal = literal and indented
        fresh = Cut.PART if indented else Cut.BLOCK
        found.cut(start, titles.get(start, fresh if blank else Cut.LINE))
        if literal:
            found.block(start, CODE)
        elif not indented:
            found.block(start, _kind(stripped))
        literal = literal or stripped.endswith("::") or "code" in _directive(stripped)
        blank = False
    return found


def _kind(stripped: str) -> str:
    if LIST_ITEM.match(stripped + " "):
        return LIST
    return TABLE if _TABLE.match(stripped) else PROSE


def _directive(stripped: str) -> str:
    return stripped.partition("::")[0] if stripped.startswith("..") else ""


def _titles(text: str, found: Structure) -> dict[int, Cut]:
    """Return the kind of cut by line start, and record the paths in `found`.

    The lines under a title's first one (text, rule, first block) are bound to it.
    """
    all_lines = [(start, line.rstrip()) for start, line in lines(text)]
    order: list[str] = []
    outline = Outline()
    kinds: dict[int, Cut] = {}
    for index in range(1, len(all_lines)):
        under, (start, title) = all_lines[index][1], all_lines[index - 1]
        if not _RULE.match(under) or len(under) < max(2, len(title.strip())):
            continue
        if not title or _RULE.match(title) or title.startswith(".."):
            continue
        over = index >= 2 and all_lines[index - 2][1] == under
        if not over and title[0] in " \t":
            continue
        style = under[0] * (2 if over else 1)
        if style not in order:
            order.append(style)
        level = order.index(style) + 1
        first = all_lines[index - 2][0] if over else start
        for bound in (start, all_lines[index][0], _after(all_lines, index)):
            kinds.setdefault(bound, Cut.BOUND)
        kinds[first] = heading_cut(level)
        found.enter(first, outline.open(level, title.strip()))
    return kinds


def _after(all_lines: list[tuple[int, str]], index: int) -> int:
    """Return the start of the first line with text after `index`, or -1."""
    for start, line in all_lines[index + 1 : index + 4]:
        if line:
            return start
    return -1
