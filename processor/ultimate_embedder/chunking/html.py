"""HTML to text: Markdown for headings, lists, tables and code, nothing that is unseen.

The source text of an HTML file is what this returns; `markdown` finds its structure.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from .markdown import fence_for
from .sources import SourceText, decode, without_surrogates

_UNSEEN = ["script", "style", "template", "noscript", "head", "svg", "iframe"]
_BLOCK_NAMES = (
    "address article aside blockquote body dd details dialog div dl dt fieldset "
    "figcaption figure footer form header hr html main nav ol p section summary ul "
    "table caption"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_MARKS = {
    "td": (" ", " |"),
    "th": (" ", " |"),
    "br": ("\n", ""),
    "option": ("\n", ""),
    "select": ("", "\n"),
}
CHARSET_WITHIN_BYTES = 4096
XHTML_WITHIN_CHARACTERS = 4096
_CHARSET = re.compile(
    rb"(?:<meta\b[^>]*?\bcharset|<\?xml\b[^>]*?\bencoding)\s*=\s*[\"']?([\w.:-]+)", re.I
)
_SELF_CLOSED = re.compile(
    r"<(script|style|title|template|noscript|iframe|textarea)\b([^<>]*)/>", re.I
)
_SPACES = re.compile(r"[ \t\r\n\f]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def read(data: bytes) -> SourceText:
    """Return the visible text of an HTML file.

    Raises:
        Unreadable: the bytes are no text.
    """
    declared = _CHARSET.search(data, 0, CHARSET_WITHIN_BYTES)
    source = decode(data, declared[1].decode("ascii") if declared else "")
    tree = LexborHTMLParser(_closed(source.text))
    tree.strip_tags(_UNSEEN)
    text = "" if tree.body is None else _text(tree.body)
    return without_surrogates(text, source.warnings)


def _closed(text: str) -> str:
    """Give XHTML's empty elements, e.g. <title/>, the end tag that HTML asks of them.

    To an HTML parser they would hold all that follows.
    """
    if "http://www.w3.org/1999/xhtml" not in text[:XHTML_WITHIN_CHARACTERS]:
        return text
    return _SELF_CLOSED.sub(r"<\1\2></\1>", text)


def _text(body: LexborNode) -> str:
    """Walk the tree without recursion: nesting in the wild has no bound."""
    out = _Writer()
    stack: list[LexborNode | str] = [body]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            out.add(item)
            continue
        tag = item.tag or ""
        if tag == "-text":
            out.words(item.text_content or "")
        elif tag == "pre":
            out.code(_code(item))
        elif not tag.startswith(("-", "!")):
            before, after = _marks(tag)
            out.add(before)
            stack.append(after)
            children = list(item.iter(include_text=True))
            stack.extend(reversed(children))
    return out.text()


def _code(pre: LexborNode) -> str:
    """Return the text of a <pre> with the lines that its elements make."""
    parts: list[str] = []
    stack: list[LexborNode | str] = [*reversed(list(pre.iter(include_text=True)))]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if parts and not parts[-1].endswith("\n"):
                parts.append(item)
            continue
        tag = item.tag or ""
        if tag == "-text":
            parts.append(item.text_content or "")
        elif tag == "br":
            parts.append("\n")
        elif not tag.startswith(("-", "!")):
            edge = ["\n"] if tag in _BLOCKS or tag in ("li", "tr") else []
            children = list(item.iter(include_text=True))
            stack += [*edge, *reversed(children), *edge]
    return "".join(parts)


def _marks(tag: str) -> tuple[str, str]:
    """Return what stands before and after the content of an element."""
    if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
        return "\n\n" + "#" * int(tag[1]) + " ", "\n\n"
    if tag in _BLOCKS:
        return "\n\n", "\n\n"
    if tag == "li":
        return "\n- ", ""
    if tag == "tr":
        return "\n|", ""
    return _MARKS.get(tag, ("", ""))


class _Writer:
    """Joins words and marks; blanks collapse as a browser would collapse them."""

    def __init__(self) -> None:
        self._done: list[str] = []  # what ends with the last code so far
        self._parts: list[str] = []  # what follows it
        self._at_line_start = True
        self._open_mark = False  # a heading's or an item's mark waits for its words

    def add(self, mark: str) -> None:
        if not mark or (self._open_mark and not mark.strip()):
            return
        if mark[0] == "\n" and self._parts:
            self._parts[-1] = self._parts[-1].rstrip(" ")
        self._parts.append(mark)
        self._at_line_start = mark[-1] in " \n|"
        self._open_mark = mark[-1] == " " and "\n" in mark

    def words(self, raw: str) -> None:
        words = _SPACES.sub(" ", raw)
        if self._at_line_start:
            words = words.lstrip(" ")
        if words:
            self._parts.append(words)
            self._at_line_start = words[-1] == " "
            self._open_mark = False

    def code(self, raw: str) -> None:
        fence = fence_for(raw)
        code = raw.strip("\n")
        self._done += [self._prose(), f"{fence}\n{code}\n{fence}"]
        self._parts = []
        self._at_line_start, self._open_mark = True, False

    def text(self) -> str:
        return "\n\n".join(part for part in (*self._done, self._prose()) if part)

    def _prose(self) -> str:
        # Blank lines within code are the author's: only those between marks collapse.
        return _BLANK_LINES.sub("\n\n", "".join(self._parts)).strip("\n")
