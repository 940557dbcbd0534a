"""The first sentence of the first documentation comment in a piece of source code.

Docstrings of Python; `/** ... */` and `///` of the languages that write like C; the
comment above a declaration in Go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LOOKED_AT = 8_000
"""Characters: what asks stands near the start, and patterns stay cheap."""

_C_LIKE_LANGUAGES = """
    c cpp csharp cs dart go groovy java javascript kotlin php rust scala swift tsx
    typescript
"""
_C_LIKE_ENDINGS = """
    .c .cc .cjs .cpp .cs .cts .cxx .dart .go .groovy .h .hh .hpp .hxx .java .js .jsx
    .kt .kts .mjs .mts .php .rs .scala .swift .ts .tsx
"""
_C_LIKE = frozenset(_C_LIKE_LANGUAGES.split())
_LIKE_C_NAMED = tuple(_C_LIKE_ENDINGS.split())

_DOCSTRING = re.compile(
    r"(?:\A\s*|^[ \t]*(?:async[ \t]+def|def|class)\b[^\n]*"
    r"(?:\n[^\n]*){0,40}?:[ \t]*(?:#[^\n]*)?\n[ \t]*)"
    r"[rRuU]?(?P<quote>\"{3}|'{3})(?P<body>.*?)(?:(?P=quote)|\Z)",
    re.MULTILINE | re.DOTALL,
)
_PARAGRAPH_END = re.compile(
    r"\n[ \t]*(?:\n|(?:Args|Arguments|Parameters|Returns|Raises|Yields|Examples?)"
    r":?[ \t]*\n)"
)
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\b\w)[.?!](?=\s|\Z|</)|[\u3002\uff1f\uff01]"
)

_BLOCK = re.compile(r"/\*[*!](?P<body>[^*/].{0,2000}?)\*/", re.DOTALL)
_SLASHES = re.compile(r"^[ \t]*//[/!].*(?:\n[ \t]*//[/!].*)*", re.MULTILINE)
_GO = re.compile(r"^//(?:$|[ \t].*)(?:\n//(?:$|[ \t].*))*", re.MULTILINE)
_LEAD = re.compile(r"[ \t]*(?:\*(?!/)|//[/!]?)?[ \t]*(?:[@\\]brief\b[ \t]*)?")
_TAG = re.compile(r"</?\w+[^<>\n]*/?>")
_INLINE = re.compile(r"\{@\w+\s+([^{}\n]*)\}")
_NEW_PARAGRAPH = re.compile(r"[@\\|]|```|(?:#+|[-+*]|\d+\.)[ \t]")
_DECLARATION = re.compile(r"\s*(?:[\w@#\[(~\"'$]|::)")
_GO_DECLARATION = re.compile(
    r"\n(?:func(?:[ \t]*\([^()\n]*\))?|type|var|const|package)[ \t]+(?P<name>\w+)"
)
_NOT_ABOUT_CODE = re.compile(
    r"\W*(?:copyright|licen[sc]ed?|spdx|all rights|this file is|reference|eslint)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """Plain words, and where they stood in the text."""

    text: str
    start: int
    end: int


def first_sentence(text: str, language: object, filename: str) -> Sentence | None:
    """Return what the first documentation comment says first, if there is one."""
    looked_at = text[:LOOKED_AT]
    if is_python(language, filename):
        return _docstring(looked_at)
    if language == "go" or filename.endswith(".go"):
        return next(_go(looked_at), None)
    if is_code(language, filename):
        return min(_c_like(looked_at), key=lambda found: found.start, default=None)
    return None


def is_code(language: object, filename: str) -> bool:
    """Say whether the metadata or the name tells of a language that is known here."""
    return (
        is_python(language, filename)
        or language in _C_LIKE
        or filename.endswith(_LIKE_C_NAMED)
    )


def is_python(language: object, filename: str) -> bool:
    """Say whether the metadata or the name tells of Python."""
    return language == "python" or filename.endswith((".py", ".pyi"))


def _docstring(text: str) -> Sentence | None:
    match = _DOCSTRING.search(text)
    if not match:
        return None
    body = match["body"]
    lead = len(body) - len(body.lstrip())
    paragraph = _PARAGRAPH_END.split(body[lead:], maxsplit=1)[0].rstrip()
    stop = _SENTENCE_END.search(paragraph)
    sentence = paragraph[: stop.end()] if stop else paragraph
    start = match.start("body") + lead
    return Sentence(sentence, start, start + len(sentence))


def _c_like(text: str) -> Iterator[Sentence]:
    """Yield from the first comment of each style that stands above code."""
    for style in (_BLOCK, _SLASHES):
        for match in style.finditer(text):
            if not _DECLARATION.match(text, match.end()):
                continue
            end = match.end("body") if style is _BLOCK else match.end()
            start = match.start("body") if style is _BLOCK else match.start()
            found = _sentence(text, start, end)
            if found is not None:
                yield found
                break


def _go(text: str) -> Iterator[Sentence]:
    """Yield from comments above declarations; the declared name is left out in front.

    By convention a comment begins with the name, which stands in the code below.
    """
    for match in _GO.finditer(text):
        declared = _GO_DECLARATION.match(text, match.end())
        found = declared and _sentence(text, match.start(), match.end())
        if declared and found:
            words = re.sub(rf"\A(?:An? |The )?{declared['name']}\b\s*", "", found.text)
            yield Sentence(words, found.start, found.end)


def _sentence(text: str, start: int, end: int) -> Sentence | None:
    """Return the first sentence of a comment, without marks and tags."""
    if _NOT_ABOUT_CODE.match(text, start, end):
        return None
    first = last = None
    words: list[str] = []
    for line_start, line_end in _lines(text, start, end):
        lead = _LEAD.match(text, line_start, line_end)
        begin = lead.end() if lead else line_start
        line = text[begin:line_end].rstrip()
        plain = _TAG.sub("", _INLINE.sub(r"\1", line)).strip()
        if first is None and not plain:
            continue
        if first is not None and (not plain or _NEW_PARAGRAPH.match(plain)):
            break
        first = begin if first is None else first
        stop = _SENTENCE_END.search(line)
        last = begin + (stop.end() if stop else len(line))
        words.append(_TAG.sub("", _INLINE.sub(r"\1", text[begin:last])))
        if stop:
            break
    if first is None or last is None or _NEW_PARAGRAPH.match(words[0]):
        return None
    return Sentence(" ".join(words), first, last)


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        yield start, stop
        start = stop + 1
