"""What a reader sees of a Word file's XML, in its order: all insertions, no deletions.

python-docx passes over tracked insertions, content controls, nested tables, notes, text
boxes and formulas, and gives a merged cell once for each place it covers; so the
elements are walked here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from .formula import DELETED, MATH, WORD, line

MAX_COLUMNS = 63
"""Word's own limit; a cell that claims to span more is not believed."""

_ALTERNATIVES = (
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
)


def _names(names: str) -> frozenset[str]:
    return frozenset(WORD + name for name in names.split())


TABLE = WORD + "tbl"
PARAGRAPH = WORD + "p"
_FORMULAS = frozenset((MATH + "oMath", MATH + "oMathPara"))
_BLOCKS = _names("p tbl") | _FORMULAS
_ROWS = _names("tr")
_CELLS = _names("tc")
_PLAIN_WORDS = _names("t tab ptab br cr noBreakHyphen")
_NOTES = {WORD + "footnoteReference": "", WORD + "endnoteReference": "e"}
_WORDS = _PLAIN_WORDS | _NOTES.keys() | _FORMULAS
_BOX = WORD + "txbxContent"
_WRAPPERS = _names(
    "r hyperlink ins moveTo sdt sdtContent smartTag customXml fldSimple bdo dir"
)
"""Elements that stand around others without changing what is read."""


def blocks(element: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables of a body or a cell."""
    return _inner(element, _BLOCKS)


def text(block: Any, *, marks: bool = True) -> str:
    """Return the text of a paragraph or a formula; tabs and line breaks are characters.

    A note has its mark where it is referred to: `[^1]`, for an endnote `[^e1]`.
    """
    if block.tag in _FORMULAS:
        return line(block)
    wanted = _WORDS if marks else _WORDS - _NOTES.keys()
    return "".join(map(_word, _inner(block, wanted)))


def _word(element: Any) -> str:
    if element.tag in _NOTES:
        return f"[^{_mark(element)}]"
    return line(element) if element.tag in _FORMULAS else str(element)


def _mark(reference: Any) -> str:
    return f"{_NOTES[reference.tag]}{reference.get(WORD + 'id')}"


def marks(block: Any) -> list[str]:
    """Return the marks of the notes that a paragraph or a table refers to."""
    found = (_mark(element) for element in _seen(block, _NOTES.keys()))
    return list(dict.fromkeys(found))


def boxes(block: Any) -> Iterator[Any]:
    """Yield the text boxes that are anchored in a paragraph or a table.

    Their content is blocks.
    """
    return _seen(block, {_BOX})


def notes(part: Any, *, endnotes: bool = False) -> Iterator[tuple[str, str]]:
    """Yield mark and text of each note in the root of a file's notes."""
    kind = "endnote" if endnotes else "footnote"
    for note in part.iterchildren(WORD + kind):
        mark = f"{_NOTES[f'{WORD}{kind}Reference']}{note.get(WORD + 'id')}"
        yield mark, " ".join(" ".join(_with_boxes(note)).split())


def _with_boxes(element: Any) -> Iterator[str]:
    yield _flat(element)
    for box in boxes(element):
        yield from _with_boxes(box)


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
        if item.tag != TABLE
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
            yield from _first([*_seen(one, wanted)] for one in child)
        elif child.tag not in DELETED and child.tag != _BOX:
            yield from _seen(child, wanted)


def _inner(element: Any, wanted: frozenset[str]) -> Iterator[Any]:
    """Yield the elements wanted, also those within wrappers."""
    for child in element:
        if child.tag in wanted:
            yield child
        elif child.tag in _WRAPPERS:
            yield from _inner(child, wanted)
        elif child.tag == _ALTERNATIVES:
            yield from _first([*_inner(one, wanted)] for one in child)


def _first(alternatives: Iterable[list[Any]]) -> list[Any]:
    """Return the first that has any."""
    return next(filter(None, alternatives), [])
