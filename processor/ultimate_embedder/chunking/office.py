"""PDF, Word, PowerPoint and Excel to Markdown, through the extra `documents`.

No model and no network: a PDF gives its text layer (a scan has none), Office files
their paragraphs, tables and cell values. `markdown` finds the structure.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from ..errors import MissingExtra
from . import word
from .sources import SourceText, Unreadable, without_surrogates

EXTRA = "documents"
MAX_UNPACKED_BYTES = 2**30
"""Office files that unpack to more are refused before they fill the memory."""


@contextmanager
def _optional(feature: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtra(feature, EXTRA) from error


@contextmanager
def _damaged(kind: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # These libraries raise whatever a damaged file leads them to: KeyError, bare
        # RuntimeError, lxml's errors. All mean the same here: this file is not usable.
        detail = f"the {kind} file cannot be read ({type(error).__name__})"
        raise Unreadable("damaged", detail) from error


def _source(parts: Iterable[str], warning: str) -> SourceText:
    text = "\n\n".join(part for part in parts if part.strip())
    return without_surrogates(text, () if text else (warning,))


def read_pdf(data: bytes) -> SourceText:
    """Return the text layer of a PDF, a heading for each page."""
    with _optional("PDF"):
        import pypdfium2
    with _damaged("PDF"):
        document = pypdfium2.PdfDocument(data)
        try:
            pages = [_page(document, number) for number in range(len(document))]
        finally:
            document.close()
    return _source(pages, "the PDF has no text layer; recognise its text first")


def _page(document: Any, number: int) -> str:
    page = document[number]
    text = page.get_textpage().get_text_bounded().replace("\r\n", "\n")
    page.close()
    return f"# Page {number + 1}\n\n{text}" if text.strip() else ""


def _check_unpacked_size(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise Unreadable("too_large", f"unpacks to {unpacked} bytes")


def _table(rows: Iterable[Iterable[object]]) -> str:
    lines = []
    for row in rows:
        cells = ["" if cell is None else " ".join(str(cell).split()) for cell in row]
        if any(cells):
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read_docx(data: bytes) -> SourceText:
    """Return headings, paragraphs and tables of a Word file, in their order.

    Notes and text boxes follow the block that refers to them.
    """
    with _optional("Word"):
        import docx
    with _damaged("Word"):
        _check_unpacked_size(data)
        document = docx.Document(io.BytesIO(data))
        notes, damaged = _notes(document.part)
        parts = list(_word_parts(document.element.body, document, notes))
    source = _source(parts, "the Word file holds no text")
    return SourceText(source.text, (*source.warnings, *damaged))


def _notes(part: Any) -> tuple[dict[str, str], list[str]]:
    """Return foot- and endnotes by their marks, and which could not be read."""
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.oxml import parse_xml

    kinds = {RELATIONSHIP_TYPE.FOOTNOTES: False, RELATIONSHIP_TYPE.ENDNOTES: True}
    notes: dict[str, str] = {}
    damaged = []
    for relation in part.rels.values():
        if relation.reltype not in kinds or relation.is_external:
            continue
        endnotes = kinds[relation.reltype]
        try:
            root = parse_xml(relation.target_part.blob)
            notes |= dict(word.notes(root, endnotes=endnotes))
        except Exception as error:  # noqa: BLE001 - as in `_damaged`; the text is whole
            kind = "endnotes" if endnotes else "footnotes"
            damaged.append(f"its {kind} cannot be read ({type(error).__name__})")
    return notes, damaged


def _word_parts(element: Any, document: Any, notes: Mapping[str, str]) -> Iterator[str]:
    for item in word.blocks(element):
        if item.tag == word.TABLE:
            yield _table(word.rows(item))
        elif item.tag == word.PARAGRAPH:
            yield _paragraph(item, document)
        else:
            yield word.text(item)
        for mark in word.marks(item):
            if mark in notes:
                yield f"[^{mark}]: {notes[mark]}"
        for box in word.boxes(item):
            yield from _word_parts(box, document, notes)


def _paragraph(item: Any, document: Any) -> str:
    from docx.text.paragraph import Paragraph

    style = Paragraph(item, document).style
    name: str = (style.name or "") if style else ""
    kind, _, level = name.partition(" ")
    text = word.text(item)
    if not text.strip():
        return ""
    if kind == "Title":
        return f"# {word.text(item, marks=False)}"
    if kind == "Heading" and level.isdigit():
        # Its mark would stand in the metadata of every chunk below.
        return f"{'#' * min(int(level), 6)} {word.text(item, marks=False)}"
    return f"- {text}" if kind == "List" else text


def read_pptx(data: bytes) -> SourceText:
    """Return the text of the slides, a heading for each, with tables and notes."""
    with _optional("PowerPoint"):
        import pptx
    with _damaged("PowerPoint"):
        _check_unpacked_size(data)
        slides = pptx.Presentation(io.BytesIO(data)).slides
        parts = [_slide(number, slide) for number, slide in enumerate(slides, 1)]
    return _source(parts, "the PowerPoint file holds no text")


def _slide(number: int, slide: Any) -> str:
    title = slide.shapes.title
    heading = " ".join(title.text_frame.text.split()) if title is not None else ""
    parts = [f"# {heading or f'Slide {number}'}"]
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.has_text_frame:
            parts.append(shape.text_frame.text)
        elif shape.has_table:
            rows = shape.table.rows
            parts.append(_table([cell.text for cell in row.cells] for row in rows))
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        parts.append(slide.notes_slide.notes_text_frame.text)
    parts = [part for part in parts if part.strip()]
    return "\n\n".join(parts) if heading or len(parts) > 1 else ""


def _shapes(shapes: Iterable[Any]) -> Iterator[Any]:
    """Yield the shapes of a slide, those of groups in the place of the group."""
    for shape in shapes:
        members = getattr(shape, "shapes", None)
        if members is None:
            yield shape
        else:
            yield from _shapes(members)


def read_xlsx(data: bytes) -> SourceText:
    """Return the cell values of a workbook, a heading for each sheet.

    Of a formula that is the value its program kept. A warning counts those without.
    """
    with _optional("Excel"):
        import openpyxl
    with _damaged("Excel"):
        _check_unpacked_size(data)
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        parts = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what a file says of its size may be wrong
            if table := _table(sheet.iter_rows(values_only=True)):
                parts.append(f"# {sheet.title}\n\n{table}")
        book.close()
        unknown = _formulas_without_value(data)
    source = _source(parts, "the Excel file holds no values")
    if not unknown:
        return source
    warning = f"formulas without a kept value: {unknown}; save the file in Excel once"
    return SourceText(source.text, (*source.warnings, warning))


def _formulas_without_value(data: bytes) -> int:
    """Count the formulas that a program wrote and none has computed.

    openpyxl tells either values or formulas, and fails over formulas it cannot parse.
    """
    found = 0
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if not name.startswith("xl/worksheets/") or not name.endswith(".xml"):
                continue
            with archive.open(name) as part:
                # openpyxl has parsed the same bytes by the same parser.
                for _, element in ElementTree.iterparse(part):  # noqa: S314
                    if element.tag.endswith("}c"):
                        found += _is_formula_without_value(element)
                    if element.tag.endswith(("}c", "}row")):
                        element.clear()
    return found


def _is_formula_without_value(cell: ElementTree.Element) -> bool:
    # An empty text is a value: `t` is "str" then.
    return (
        cell.find("{*}f") is not None
        and cell.get("t") != "str"
        and not cell.findtext("{*}v")
    )
