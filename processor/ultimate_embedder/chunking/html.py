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
_SPACES = re.compile(r"[ \t\r\n\f]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def read(data: bytes) -> SourceText:
    """Return the visible text of an HTML file.

    Raises:
        Unreadable: the bytes are no text.
    """
    source = decode(data)
    tree = LexborHTMLParser(source.text)
    tree.strip_tags(_UNSEEN)
    text = "" if tree.body is None else _text(tree.body)
    return without_surrogates(text, source.warnings)


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
            out.code(item.text(deep=True))
        elif not tag.startswith(("-", "!")):
            before, after = _marks(tag)
            out.add(before)
            stack.append(after)
            children = list(item.iter(include_text=True))
            stack.extend(reversed(children))
    return _BLANK_LINES.sub("\n\n", out.text()).strip("\n")


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
    return {"td": (" ", " |"), "th": (" ", " |"), "br": ("\n", "")}.get(tag, ("", ""))


class _Writer:
    """Joins words and marks; blanks collapse as a browser would collapse them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
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
        self._parts.append(f"\n\n{fence}\n{code}\n{fence}\n\n")
        self._at_line_start, self._open_mark = True, False

    def text(self) -> str:
        return "".join(self._parts)
