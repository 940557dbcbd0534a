"""The question a chunk answers, found by rule.

A heading at the start of a chunk asks what the section below it answers, and so does
the title of a text that is a single chunk; the first sentence of a documentation
comment asks for the code it describes. What serves as the question is taken out of the
text it is matched against, see `masking`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..records import Chunk
from .doc_comments import LOOKED_AT, first_sentence, is_code
from .wording import spaced_words, unspaced_characters, word_count

MIN_QUESTION_WORDS = 3
MAX_QUESTION_CHARACTERS = 200
TITLE_FIELDS = ("title", "document_title", "page_title")
"""Fields of the metadata that name a whole text."""

Kind = Literal["heading", "question", "docstring", "title"]
"""Where a question was taken from: `question` is a heading that ends in `?`."""

_ATX = re.compile(r"(#{1,6}[ \t]+)(?P<title>.+?)[ \t]*#*[ \t]*\Z")
_RULE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}[ \t]*\Z")
_OVERLINE = re.compile(r"([^\w\s])\1{2,}[ \t]*\Z")
_FRONT_TITLE = re.compile(r"^title:[ \t]*(['\"]?)(?P<title>[^\n]*?)\1[ \t]*$", re.M)
_FRONT_END = re.compile(r"^(?:---|\.\.\.)[ \t]*$", re.M)
_LINK = re.compile(r"!?\[([^\]\n]*)\](?:\([^)\n]*\)|\[[^\]\n]*\])")
_ANCHOR = re.compile(r"\s*\{#[^}\n]*\}\s*$")
_MARKUP = re.compile(r"[`*\\]+|:\w+:(?=`)")
_NUMBERING = re.compile(r"^(?:\d+[.)])+\d*\s+")

# A question made of these alone would fit any corpus and half of its chunks.
_GENERIC_WORDS = """
    a about additional advanced all an and answers api are arguments asked
    attributes background basic basics be been best can changelog class code common
    components concepts conclusion configuration configure considerations
    constructor contents core could creates default demo description destructor
    details development did do document documentation documents does error errors
    example examples faq feature features file files for frequently from function
    further general get gets getting guide handling has have helper how i in
    information initialise initialises initialize initializes input install
    installation installing instance instructions internal introduction is issues it
    its key known license licensed links list main matters method methods misc model
    module more my new next note notes object of on options or other output overview
    page pages parameter parameters performance practices prerequisites problems
    properties purpose questions quick quickstart reading reference references
    related release requirements resources result results return returns running
    scope section see self set sets setting settings setup should sources start
    started step steps structure summary support supported system table test testing
    tests that the this to topics troubleshooting true tutorial type types usage use
    using value values version was we were what when where which who why will with
    work workflow works would you your
"""
_GENERIC = frozenset(_GENERIC_WORDS.split())


@dataclass(frozen=True, slots=True)
class Question:
    """`text` is plain words; they were taken from `span` of the chunk's text.

    The span is empty where the question stands in the metadata.
    """

    text: str
    kind: Kind
    span: tuple[int, int]


def find_question(chunk: Chunk, *, alone: bool = False) -> Question | None:
    """Return the question that this chunk answers, or None where no rule finds one.

    `alone`: the chunk is its file's only one, so that the file's title asks for it.
    """
    return next(filter(_telling, _questions(chunk, alone)), None)


def find_name(chunk: Chunk, *, alone: bool = False) -> Question | None:
    """Return what `find_question` does, or where there is none what names the chunk.

    That is a heading, a docstring or a title too generic to mean this chunk alone.
    """
    found = list(_questions(chunk, alone))
    return next(filter(_telling, found), found[0] if found else None)


def _questions(chunk: Chunk, alone: bool) -> Iterator[Question]:
    for kind, start, end, raw in _asked(chunk, alone):
        text = _plain(raw)
        asks = kind == "heading" and text.endswith(("?", "\uff1f", "\u061f"))
        yield Question(text, "question" if asks else kind, (start, end))


def _telling(question: Question) -> bool:
    return is_telling(question.text)


def is_telling(question: str) -> bool:
    """Say whether a question is long enough to mean one chunk, and not generic.

    A path or a file's name, which has no blank in it, is none.
    """
    if word_count(question) < MIN_QUESTION_WORDS:
        return False
    if len(question) > MAX_QUESTION_CHARACTERS:
        return False
    if unspaced_characters(question):
        return True
    words = spaced_words(question.casefold())
    return " " in question and not all(word in _GENERIC for word in words)


_Found = tuple[Kind, int, int, str]


def _asked(chunk: Chunk, alone: bool) -> Iterator[_Found]:
    for rule in (_heading, _documented, _front_title):
        yield from rule(chunk)
    if alone:
        yield from _metadata_title(chunk)


def _heading(chunk: Chunk) -> Iterator[_Found]:
    """Find a Markdown or reStructuredText heading at the start.

    A heading named by the metadata goes first: in chunks whose line breaks were lost
    only it says where the heading ends.
    """
    lines = _first_lines(chunk.text)
    if not lines or is_code(chunk.metadata.get("language"), chunk.filename):
        return  # a comment's underline, a directive or a shell banner is no heading
    (start, first), *below = lines
    if place := _named_heading(chunk, start, first):
        yield "heading", *place
    elif match := _ATX.match(first):
        yield "heading", start, start + len(first), match["title"]
    else:
        if len(below) == 2 and _OVERLINE.match(first):
            (_, first), *below = below
        if below and _is_underlined(first, below[0][1]):
            yield "heading", start, below[0][0] + len(below[0][1]), first


def _first_lines(text: str) -> list[tuple[int, str]]:
    """Return at most three lines and where they begin, blank ones before left out."""
    start = len(text) - len(text.lstrip())
    start = text.rfind("\n", 0, start) + 1
    lines = []
    for line in text[start : start + LOOKED_AT].split("\n", 3)[:3]:
        lines.append((start, line))
        start += len(line) + 1
    return lines if lines[0][1].strip() else []


def _is_underlined(title: str, below: str) -> bool:
    return (
        0 < len(title.strip()) <= MAX_QUESTION_CHARACTERS
        and bool(_RULE.match(below))
        and len(below.rstrip()) >= len(title.strip()) - 2
    )


def _named_heading(chunk: Chunk, start: int, first: str) -> tuple[int, int, str] | None:
    heading = chunk.metadata.get("heading_text")
    if not isinstance(heading, str) or not heading.strip():
        return None
    heading = heading.strip()
    place = first.find(heading)
    end = place + len(heading)
    if place < 0 or first[:place].strip("# \t*") or first[end : end + 1].isalnum():
        return None
    return start, start + end, heading


def _documented(chunk: Chunk) -> Iterator[_Found]:
    language = chunk.metadata.get("language")
    if found := first_sentence(chunk.text, language, chunk.filename):
        yield "docstring", found.start, found.end, found.text


def _front_title(chunk: Chunk) -> Iterator[_Found]:
    """Find the title in YAML between `---` lines at the start."""
    if not chunk.text.startswith("---\n"):
        return
    end = _FRONT_END.search(chunk.text, 4, LOOKED_AT)
    match = _FRONT_TITLE.search(chunk.text, 4, end.start() if end else LOOKED_AT)
    if match:
        yield "title", match.start(), match.end(), match["title"]


def _metadata_title(chunk: Chunk) -> Iterator[_Found]:
    for name in TITLE_FIELDS:
        title = chunk.metadata.get(name)
        if isinstance(title, str):
            yield "title", 0, 0, title


def _plain(raw: str) -> str:
    text = _MARKUP.sub("", _LINK.sub(r"\1", _ANCHOR.sub("", raw)))
    return _NUMBERING.sub("", " ".join(text.split()))
