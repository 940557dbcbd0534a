"""Notebooks and gallery scripts as pages: their prose with the code as blocks."""

from __future__ import annotations

import ast
import json
import re
import textwrap

CELL = re.compile(r"^# ?%%.*$|^#{20,}\s*$", re.MULTILINE)
GALLERY = re.compile(r"(^|/)(examples|tutorials|galler(y|ies))/.*\.py$")


def is_gallery(path: str) -> bool:
    """Whether a Python file lies where galleries of examples do."""
    return bool(GALLERY.search(path))


def notebook_page(text: str) -> str:
    """A notebook as Markdown; empty where it is none."""
    try:
        cells = json.loads(text).get("cells", [])
    except (ValueError, AttributeError):
        return ""
    shown = []
    for cell in cells:
        source = "".join(cell.get("source", []))
        is_code = cell.get("cell_type") == "code"
        shown.append(f"```python\n{source}\n```" if is_code else source)
    return "\n\n".join(shown)


def gallery_page(text: str) -> str:
    """A gallery script as reStructuredText: docstring, commented cells, code."""
    try:
        docstring = ast.get_docstring(ast.parse(text)) or ""
    except (SyntaxError, ValueError):
        return ""
    if not docstring or not CELL.search(text):
        return ""
    shown = [docstring]
    for cell in CELL.split(text)[1:]:
        prose, code = _prose_and_code(cell.strip("\n"))
        shown.append(prose)
        if code.strip():
            shown.append(".. code-block:: python\n\n" + textwrap.indent(code, "    "))
    return "\n\n".join(shown)


def _prose_and_code(cell: str) -> tuple[str, str]:
    lines = cell.split("\n")
    count = 0
    while count < len(lines) and lines[count].startswith("#"):
        count += 1
    prose = [re.sub(r"^# ?", "", line) for line in lines[:count]]
    return "\n".join(prose), "\n".join(lines[count:]).strip("\n")
