"""Structure of JSON, YAML and TOML, read by their lines: the text need not be valid.

Keys of the first two levels of indentation make the path; TOML tables are headings.
"""

from __future__ import annotations

import re

from .plain import lines
from .structure import DATA, Cut, Outline, Structure

# No two neighbours in these may match the same blanks: a line may have millions.
_KEY = re.compile(r"""[ ]*(?:-[ ]+)?["']?([^\s"'#:{}\[\],][^"':]*+)["']?\s*:(?:\s|$)""")
_TABLE = re.compile(r"\[{1,2}([^\]]+)\]+\s*(?:#.*)?$")
_LEVEL_CUTS = (Cut.SECTION, Cut.SUBSECTION)


def find_indented(text: str) -> Structure:
    """Return the structure of JSON or YAML."""
    found = Structure(blocks=[(0, DATA)])
    outline = Outline()
    levels: list[int] = []  # the indentations seen around this place
    for start, line in lines(text):
        stripped = line.strip()
        if not stripped:
            continue
        indent = len(line) - len(line.lstrip())
        levels = [level for level in levels if level < indent]
        if stripped[0] in "]})" or stripped == "---":
            found.cut(start, Cut.BOUND if stripped != "---" else Cut.TOP)
            continue
        if stripped[0] in "[{":
            found.cut(start, Cut.ITEM)
            continue
        key = _KEY.match(line)
        if key and len(levels) < len(_LEVEL_CUTS):
            found.cut(start, _LEVEL_CUTS[len(levels)])
            found.enter(start, outline.open(len(levels) + 1, key[1].rstrip()))
        else:
            found.cut(start, Cut.ITEM if len(levels) <= 2 else Cut.LINE)
        levels.append(indent)
    return found


def find_toml(text: str) -> Structure:
    """Return the structure of TOML."""
    found = Structure(blocks=[(0, DATA)])
    blank = True
    for start, line in lines(text):
        stripped = line.strip()
        if not stripped:
            blank = True
            continue
        if line[0] == "[" and (table := _TABLE.match(stripped)):
            found.cut(start, Cut.SECTION)
            found.enter(start, tuple(part.strip() for part in table[1].split(".")))
        elif line[0] in " \t]}":
            found.cut(start, Cut.LINE)
        else:
            found.cut(start, Cut.ITEM if blank else Cut.LINE)
        blank = False
    return found
