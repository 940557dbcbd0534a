"""PDF, Word, PowerPoint and Excel to Markdown, through the extra `documents`.

No model and no network: a PDF gives its text layer (a scan has none), Office files
their paragraphs, tables and cell values. `markdown` finds the structure.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import MissingExtra
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
    """Return headings, paragraphs and tables of a Word file, in their order."""
    with _optional("Word"):
        import docx
        from docx.table import Table
    with _damaged("Word"):
        _check_unpacked_size(data)
        document = docx.Document(io.BytesIO(data))
        parts = [
            _table([cell.text for cell in row.cells] for row in item.rows)
            if isinstance(item, Table)
            else _paragraph(item)
            for item in document.iter_inner_content()
        ]
    return _source(parts, "the Word file holds no text")


def _paragraph(paragraph: Any) -> str:
    text: str = paragraph.text
    style: str = (paragraph.style.name or "") if paragraph.style else ""
    kind, _, level = style.partition(" ")
    if not text.strip():
        return ""
    if kind == "Title":
        return f"# {text}"
    if kind == "Heading" and level.isdigit():
        return f"{'#' * min(int(level), 6)} {text}"
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
    for shape in slide.shapes:
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


def read_xlsx(data: bytes) -> SourceText:
    """Return the cell values of a workbook, a heading for each sheet."""
    with _optional("Excel"):
        import openpyxl
    with _damaged("Excel"):
        _check_unpacked_size(data)
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        parts = []
        for sheet in book.worksheets:
            if table := _table(sheet.iter_rows(values_only=True)):
                parts.append(f"# {sheet.title}\n\n{table}")
        book.close()
    return _source(parts, "the Excel file holds no values")
