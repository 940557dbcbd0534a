"""Jupyter notebooks to Markdown: the sources of the cells, no outputs.

Code cells become fences in the kernel's language; `markdown` finds the structure.
"""

from __future__ import annotations

import json
from typing import Any

from .markdown import fence_for, open_fence
from .sources import SourceText, Unreadable, decode, without_surrogates


def read(data: bytes) -> SourceText:
    """Return the cells of a notebook (formats 3 and 4) as one Markdown text.

    Raises:
        Unreadable: not JSON, or JSON that is not a notebook.
    """
    source = decode(data)
    try:
        notebook = json.loads(source.text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("not_json", "the notebook is not valid JSON") from error
    cells = _cells(notebook)
    language = _language(notebook)
    parts = [part for cell in cells if (part := _cell(cell, language)).strip()]
    return without_surrogates("\n\n".join(parts), source.warnings)


def _cells(notebook: Any) -> list[Any]:
    if isinstance(notebook, dict):
        cells = notebook.get("cells")
        if isinstance(cells, list):
            return cells
        sheets = notebook.get("worksheets")  # format 3
        if isinstance(sheets, list):
            return [
                cell
                for sheet in sheets
                if isinstance(sheet, dict) and isinstance(sheet.get("cells"), list)
                for cell in sheet["cells"]
            ]
    raise Unreadable("not_a_notebook", "the JSON has no list of cells")


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    info = metadata.get("language_info") if isinstance(metadata, dict) else None
    name = info.get("name") if isinstance(info, dict) else None
    return name if isinstance(name, str) and name.isalnum() else ""


def _cell(cell: Any, language: str) -> str:
    if not isinstance(cell, dict):
        return ""
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    if not isinstance(source, str) or not source.strip():
        return ""
    if cell.get("cell_type") == "code":
        fence = fence_for(source)
        return f"{fence}{language}\n{source.rstrip()}\n{fence}"
    fence_left = open_fence(source)
    return f"{source}\n{fence_left}" if fence_left else source
