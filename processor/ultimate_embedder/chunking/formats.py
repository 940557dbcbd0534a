"""Which files are documents, how each is read and how its structure is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

from . import (
    code,
    html,
    markdown,
    notebook,
    office,
    plain,
    rst,
    settings_files,
)
from .sources import Finder, Reader, decode


@dataclass(frozen=True, slots=True)
class Format:
    """`language` is set for source code."""

    name: str
    find: Finder
    read: Reader = decode
    language: str | None = None


def _code(language: str) -> Format:
    return Format(language, partial(code.find, language=language), language=language)


_PLAIN = Format("text", plain.find)
_MARKDOWN = Format("markdown", markdown.find)
_INDENTED = settings_files.find_indented

_EXTENSIONS: tuple[tuple[str, Format], ...] = (
    (".md .markdown .mdx .mdown .qmd", _MARKDOWN),
    (".txt .text .log .adoc .org", _PLAIN),
    (".rst .rest", Format("restructuredtext", rst.find)),
    (".html .htm .xhtml", Format("html", markdown.find, html.read)),
    (".ipynb", Format("notebook", markdown.find, notebook.read)),
    (".py .pyi", _code("python")),
    (".rs", _code("rust")),
    (".go", _code("go")),
    (".java", _code("java")),
    (".c .h", _code("c")),
    (".cc .cpp .cxx .hh .hpp .hxx", _code("cpp")),
    (".js .mjs .cjs .jsx", _code("javascript")),
    (".ts .mts .cts", _code("typescript")),
    (".tsx", _code("tsx")),
    (".json .jsonl .ndjson", Format("json", _INDENTED)),
    (".yaml .yml", Format("yaml", _INDENTED)),
    (".toml", Format("toml", settings_files.find_toml)),
    (".pdf", Format("pdf", markdown.find, office.read_pdf)),
    (".docx", Format("docx", markdown.find, office.read_docx)),
    (".pptx", Format("pptx", markdown.find, office.read_pptx)),
    (".xlsx", Format("xlsx", markdown.find, office.read_xlsx)),
)
FORMATS: Mapping[str, Format] = {
    extension: format_ for names, format_ in _EXTENSIONS for extension in names.split()
}
_BARE_NAMES = (
    "readme license licence notice copying changelog changes authors contributors "
    "contributing metadata makefile dockerfile"
)


def format_of(name: PurePath) -> Format | None:
    """Return the format of a file by its name, None when it is no document."""
    if not name.suffix and name.name.lower() in _BARE_NAMES.split():
        return _PLAIN
    return FORMATS.get(name.suffix.lower())
