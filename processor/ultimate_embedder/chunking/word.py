"""What a reader sees of a Word file's XML, in its order: all insertions, no deletions.

python-docx passes over tracked insertions, content controls, nested tables, notes, text
boxes and formulas, and gives a merged cell once for each place it covers; so the
elements are walked here. A formula is its characters in a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

MAX_COLUMNS = 63
"""Word's own limit; a cell that claims to span more is not believed."""

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_ALTERNATIVES = (
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
)


def _names(names: str) -> frozenset[str]:
    return frozenset(_W + name for name in names.split())


TABLE = _W + "tbl"
_PARAGRAPH = _W + "p"
_BLOCKS = _names("p tbl")
_ROWS = _names("tr")
_CELLS = _names("tc")
_PLAIN_WORDS = _names("t tab ptab br cr noBreakHyphen")
_NOTES = {_W + "footnoteReference": "", _W + "endnoteReference": "e"}
_FORMULAS = frozenset((_M + "oMath", _M + "oMathPara"))
_WORDS = _PLAIN_WORDS | _NOTES.keys() | _FORMULAS
_BOX = _W + "txbxContent"
_DELETED = _names("del moveFrom")
_WRAPPERS = _names(
    "r hyperlink ins moveTo sdt sdtContent smartTag customXml fldSimple bdo dir"
)
"""Elements that stand around others without changing what is read."""


def blocks(element: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables of a body or a cell."""
    return _inner(element, _BLOCKS)


def text(paragraph: Any) -> str:
    """Return the text of a paragraph; tabs and line breaks are characters.

    A note has its mark where it is referred to: `[^1]`, for an endnote `[^e1]`.
    """
    return "".join(map(_word, _inner(paragraph, _WORDS)))


def _word(element: Any) -> str:
    if element.tag in _NOTES:
        return f"[^{_mark(element)}]"
    if element.tag in _FORMULAS:
        return "".join(part.text or "" for part in element.iter(_M + "t"))
    return str(element)


def _mark(reference: Any) -> str:
    return f"{_NOTES[reference.tag]}{reference.get(_W + 'id')}"


def marks(block: Any) -> list[str]:
    """Return the marks of the notes that a paragraph or a table refers to."""
    return [_mark(element) for element in _seen(block, _NOTES.keys())]


def boxes(block: Any) -> Iterator[Any]:
    """Yield the text boxes that are anchored in a paragraph or a table.

    Their content is blocks.
    """
    return _seen(block, {_BOX})


def notes(part: Any, *, endnotes: bool = False) -> Iterator[tuple[str, str]]:
    """Yield mark and text of each note in the root of a file's notes."""
    kind = "endnote" if endnotes else "footnote"
    for note in part.iterchildren(_W + kind):
        mark = f"{_NOTES[f'{_W}{kind}Reference']}{note.get(_W + 'id')}"
        yield mark, " ".join(_flat(note).split())


def rows(table: Any) -> Iterator[list[str]]:
    """Yield the texts of the cells, row by row.

    A merged cell has its text in its first place, the others are empty.
    """
    for row in _inner(table, _ROWS):
        cells: list[str] = []
        for cell in _inner(row, _CELLS):
            span = min(cell.grid_span, MAX_COLUMNS)
            # python-docx: "continue" for a cell that one above it extends into.
            first = "" if cell.vMerge == "continue" else _flat(cell)
            cells += [first, *[""] * (span - 1)]
        yield cells


def _flat(element: Any) -> str:
    """Return the text of a cell or a note, a line for each paragraph and row."""
    return "\n".join(
        text(item)
        if item.tag == _PARAGRAPH
        else "\n".join(" ".join(filter(None, row)) for row in rows(item))
        for item in blocks(element)
    )


def _seen(element: Any, wanted: Collection[str]) -> Iterator[Any]:
    """Yield the elements wanted, however deep; none within them or in deletions.

    Of alternatives (a drawing, and the same for older programs) the first that has any.
    """
    for child in element:
        if child.tag in wanted:
            yield child
        elif child.tag == _ALTERNATIVES:
            found = ([*_seen(one, wanted)] for one in child)
            yield from next(filter(None, found), [])
        elif child.tag not in _DELETED and child.tag != _BOX:
            yield from _seen(child, wanted)


def _inner(element: Any, wanted: frozenset[str]) -> Iterator[Any]:
    """Yield the elements wanted, also those within wrappers."""
    for child in element:
        if child.tag in wanted:
            yield child
        elif child.tag in _WRAPPERS:
            yield from _inner(child, wanted)
