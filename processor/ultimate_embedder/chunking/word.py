"""What a reader sees of a Word file's XML, in its order: all insertions, no deletions.

python-docx passes over tracked insertions, content controls and nested tables, and
gives a merged cell once for each place it covers; so the elements are walked here.
Text boxes and formulas are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_COLUMNS = 63
"""Word's own limit; a cell that claims to span more is not believed."""

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def _names(names: str) -> frozenset[str]:
    return frozenset(_W + name for name in names.split())


TABLE = _W + "tbl"
_PARAGRAPH = _W + "p"
_BLOCKS = _names("p tbl")
_ROWS = _names("tr")
_CELLS = _names("tc")
_WORDS = _names("t tab ptab br cr noBreakHyphen")
_WRAPPERS = _names(
    "r hyperlink ins moveTo sdt sdtContent smartTag customXml fldSimple bdo dir"
)
"""Elements that stand around others without changing what is read."""


def blocks(element: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables of a body or a cell."""
    return _inner(element, _BLOCKS)


def text(paragraph: Any) -> str:
    """Return the text of a paragraph; tabs and line breaks are characters."""
    return "".join(map(str, _inner(paragraph, _WORDS)))


def rows(table: Any) -> Iterator[list[str]]:
    """Yield the texts of the cells, row by row.

    A merged cell has its text in its first place, the others are empty.
    """
    for row in _inner(table, _ROWS):
        cells: list[str] = []
        for cell in _inner(row, _CELLS):
            span = min(cell.grid_span, MAX_COLUMNS)
            # python-docx: "continue" for a cell that one above it extends into.
            first = "" if cell.vMerge == "continue" else _cell(cell)
            cells += [first, *[""] * (span - 1)]
        yield cells


def _cell(cell: Any) -> str:
    return "\n".join(
        text(item)
        if item.tag == _PARAGRAPH
        else "\n".join(" ".join(filter(None, row)) for row in rows(item))
        for item in blocks(cell)
    )


def _inner(element: Any, wanted: frozenset[str]) -> Iterator[Any]:
    """Yield the elements wanted, also those within wrappers."""
    for child in element:
        if child.tag in wanted:
            yield child
        elif child.tag in _WRAPPERS:
            yield from _inner(child, wanted)
