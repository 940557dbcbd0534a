"""The question a chunk answers, found by rule, with the chunk's text without it.

A heading at the start of a chunk asks what the section below it answers; the first
sentence of a Python docstring asks for the code it describes. What serves as the
question is taken out of the text, or finding it again would prove nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..records import Chunk

MIN_QUESTION_WORDS = 3
MAX_QUESTION_CHARACTERS = 200
MIN_ANSWER_WORDS = 10

_LOOKED_AT = 8_000  # characters: a question stands at the start, patterns stay cheap

_WORD = re.compile(r"[^\W\d_]\w*")
_FIRST_LINE = re.compile(r"\s*^(?P<line>[^\n]*\S[^\n]*)$", re.MULTILINE)
_ATX = re.compile(r"\s*^(#{1,6}[ \t]+)(?P<title>[^\n]+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_UNDERLINED = re.compile(
    r"\s*^(?:(?P<over>([^\w\s])\2{2,})[ \t]*\n)?"
    r"[ \t]*(?P<title>[^\n]*\w[^\n]*?)[ \t]*\n"
    r"(?P<under>([=\-~^\"'`#*+.:_])\5{2,})[ \t]*(?:\n|\Z)",
    re.MULTILINE,
)
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
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\b\w)[.?!](?=\s|\Z)")
_LINK = re.compile(r"!?\[([^\]\n]*)\](?:\([^)\n]*\)|\[[^\]\n]*\])")
_ANCHOR = re.compile(r"\s*\{#[^}\n]*\}\s*$")
_MARKUP = re.compile(r"[`*\\]+|:\w+:(?=`)")
_NUMBERING = re.compile(r"^(?:\d+[.)])+\d*\s+")

# A question made of these alone would fit any corpus and half of its chunks.
_GENERIC_WORDS = """
    a about additional advanced all an and answers api are arguments asked attributes
    background basic basics best changelog class code common components concepts
    conclusion configuration configure considerations contents core creates default
    demo description details development document documentation documents error errors
    example examples faq feature features file files for frequently from function
    further general get getting guide handling helper how in information initialise
    initialises initialize initializes input instance install installation installing
    instructions internal introduction is issues it key known license links list main
    matters method methods misc model module more new next note notes object of on
    options or other output overview page pages parameter parameters performance
    practices prerequisites problems properties purpose questions quick quickstart
    reading reference references related release requirements resources result results
    return returns running scope section see self set setting settings setup sources
    start started step steps structure summary support supported system table test
    testing tests the this to topics troubleshooting tutorial type types usage use
    using value values version what why with work workflow works you your
"""
_GENERIC = frozenset(_GENERIC_WORDS.split())


@dataclass(frozen=True, slots=True)
class Question:
    """`text` is plain words; `masked_text` is the chunk without them."""

    text: str
    masked_text: str


def find_question(chunk: Chunk) -> Question | None:
    """Return the question that this chunk answers, or None where no rule finds one."""
    for rule in (_heading, _docstring):
        found = rule(chunk)
        if found is not None:
            start, end, raw = found
            text = _plain(raw)
            masked = (chunk.text[:start] + chunk.text[end:]).strip()
            if _is_telling(text) and len(_WORD.findall(masked)) >= MIN_ANSWER_WORDS:
                return Question(text, masked)
    return None


def same_question(text: str) -> str:
    """Return a form that is equal for questions which differ in case or signs only."""
    return " ".join(_WORD.findall(text.casefold()))


_Span = tuple[int, int, str]


def _heading(chunk: Chunk) -> _Span | None:
    """Find a Markdown or reStructuredText heading at the start.

    A heading named by the metadata goes first: in chunks whose line breaks were lost
    only it says where the heading ends.
    """
    if span := _named_heading(chunk):
        return span
    start = chunk.text[:_LOOKED_AT]
    if match := _ATX.match(start):
        return match.start(1), match.end(), match["title"]
    if _is_python(chunk):
        return None  # a comment's underline or a shell banner is no heading
    match = _UNDERLINED.match(start)
    if match and len(match["under"]) >= len(match["title"].rstrip()) - 2:
        return match.start(), match.end(), match["title"]
    return None


def _named_heading(chunk: Chunk) -> _Span | None:
    heading = chunk.metadata.get("heading_text")
    first = _FIRST_LINE.match(chunk.text[:_LOOKED_AT])
    if not isinstance(heading, str) or not heading.strip() or not first:
        return None
    heading = heading.strip()
    place = chunk.text.find(heading, first.start("line"), first.end("line"))
    if place < 0:
        return None
    before = chunk.text[first.start("line") : place]
    end = place + len(heading)
    if before.strip("# \t*") or chunk.text[end : end + 1].isalnum():
        return None
    return first.start("line"), end, heading


def _docstring(chunk: Chunk) -> _Span | None:
    """Find the first sentence of the first docstring of a Python chunk."""
    if not _is_python(chunk):
        return None
    match = _DOCSTRING.search(chunk.text[:_LOOKED_AT])
    if not match:
        return None
    body = match["body"]
    lead = len(body) - len(body.lstrip())
    paragraph = _PARAGRAPH_END.split(body[lead:], maxsplit=1)[0]
    stop = _SENTENCE_END.search(paragraph)
    sentence = paragraph[: stop.end()] if stop else paragraph.rstrip()
    start = match.start("body") + lead
    return start, start + len(sentence), sentence


def _is_python(chunk: Chunk) -> bool:
    language = chunk.metadata.get("language")
    return language == "python" or chunk.filename.endswith((".py", ".pyi"))


def _plain(raw: str) -> str:
    text = _MARKUP.sub("", _LINK.sub(r"\1", _ANCHOR.sub("", raw)))
    return _NUMBERING.sub("", " ".join(text.split()))


def _is_telling(question: str) -> bool:
    words = _WORD.findall(question.casefold())
    return (
        len(words) >= MIN_QUESTION_WORDS
        and len(question) <= MAX_QUESTION_CHARACTERS
        and not all(word in _GENERIC for word in words)
    )
