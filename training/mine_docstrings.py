"""Pairs of prose from docstrings: reference entries, notes, citations, parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator

from training.mine_pages import clean
from training.mine_pairs import Pair, first_sentence, share
from training.mine_queries import vary

# A heading of numpydoc, or one of Google's style at the start of a line.
HEADING = re.compile(r"^(\w[\w ]+)\n-{3,}\s*$", re.MULTILINE)
QUOTED = re.compile(r"[\"“]([A-Z][^\"”]{24,200}?)[,.]?[\"”]")
# Authors, a year in brackets or not, the title up to a full stop, a journal.
UNQUOTED = re.compile(
    r"\(?\b(?:19|20)\d\d\)?[a-z]?[.,:]\s+([A-Z][^.\"“]{24,200}?)\.\s+[A-Z*]"
)
PARAMETER = re.compile(r"^(\w[\w, *]*) ?: ?(\S.*)$")
PARAMETERS_TAKEN = 3
NOTES_WORDS = 40


def parts(docstring: str) -> dict[str, str]:
    """A docstring's opening under "" and each headed part under its heading."""
    pieces = HEADING.split(docstring)
    found = {"": pieces[0].strip()}
    for heading, text in zip(pieces[1::2], pieces[2::2], strict=True):
        found[heading] = text.strip("\n")
    return found


def without(docstring: str, heading: str) -> str:
    """A docstring without one of its headed parts."""
    kept = [parts(docstring)[""]]
    for name, text in parts(docstring).items():
        if name and name != heading:
            kept.append(f"{name}\n{'-' * len(name)}\n{text}")
    return "\n\n".join(kept)


def docstring_pairs(name: str, docstring: str) -> Iterator[Pair]:
    """The prose of one docstring, given away in one way that its hash draws."""
    found = parts(docstring)
    sentence, rest = first_sentence(docstring)
    draw = share(f"prose{name}{docstring}")
    titles = citations(found.get("References", ""))
    if titles and draw < 0.7:
        text = clean(without(docstring, "References"))
        yield Pair(titles[0], f"{name}\n\n{text}", "citation")
    elif len(found.get("Notes", "").split()) >= NOTES_WORDS and draw < 0.8:
        yield from _notes(sentence, clean(found["Notes"]))
    elif draw < 0.2 and "Parameters" in found:
        yield from parameters(name, found["Parameters"])
    elif len(rest.split()) >= 20:
        yield Pair(vary(sentence, "py"), f"{name}\n\n{rest}", "docstring-reference")


def _notes(sentence: str, notes: str) -> Iterator[Pair]:
    """Notes as a text of their own, asked for by the summary or their beginning."""
    opening, others = first_sentence(notes)
    if share("notes" + opening) < 0.5:
        yield Pair(vary(sentence), notes, "summary-notes")
    else:
        yield Pair(vary(opening), others, "first-sentence-notes")


def citations(references: str) -> list[str]:
    """The titles of the works that a list of references names."""
    text = " ".join(references.split())
    return QUOTED.findall(text) or UNQUOTED.findall(text)


def module_pairs(docstring: str) -> Iterator[Pair]:
    """A module's description, asked for by its first sentence."""
    sentence, rest = first_sentence(docstring)
    if len(rest.split()) >= 30:
        yield Pair(vary(sentence), clean(rest), "first-sentence-module")


def parameters(name: str, section: str) -> Iterator[Pair]:
    """Descriptions of parameters (numpydoc), each without its first sentence."""
    found: list[tuple[str, list[str]]] = []
    for line in section.split("\n"):
        if PARAMETER.match(line):
            found.append((line, []))
        elif found:
            found[-1][1].append(line.strip())
    taken = 0
    for line, described in found:
        sentence, others = first_sentence("\n".join(described))
        if len(others.split()) >= 5 and taken < PARAMETERS_TAKEN:
            taken += 1
            yield Pair(vary(sentence), f"{name}({line})\n{others}", "parameter")
