"""Judgements from a file: which document is relevant to which query, and how much.

Two forms are read, told apart by the first line: TREC's four columns (query,
iteration, document, relevance, blanks between) and BEIR's three (query, document,
relevance, tabs between), whose first line names the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError, UsageError

Judgements = dict[str, dict[str, int]]
"""Query id -> document id -> relevance; relevant above 0."""

_CURE = (
    "A line: query, 0, document, relevance with blanks between (TREC), or query, "
    "document, relevance with tabs between below a line of names (BEIR)."
)
_BEIR_COLUMNS = 3
_TREC_COLUMNS = 4


def read_judgements(path: Path) -> Judgements:
    """Return the judgements of a file.

    Raises:
        UsageError: the file cannot be read.
        InputError: naming the line and what is wrong with it, or holding none.
    """
    found: Judgements = {}
    columns: Callable[[str, str], tuple[str, str, str]] | None = None
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        if columns is None:
            columns, is_header = _form(line, place)
            if is_header:
                continue
        query, document, relevance = columns(line, place)
        judged = found.setdefault(query, {})
        if judged.setdefault(document, _relevance(relevance, place)) != int(relevance):
            raise InputError(
                f"{place}: '{document}' is judged twice for '{query}', differently.",
                cure="Keep one of the lines.",
            )
    if not found:
        raise InputError(f"{path} holds no judgement.", cure=_CURE)
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        # Only a line feed ends a line: an id may hold U+2028 and its like.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(
            f"The judgements in {path} cannot be read: {error.strerror or error}."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The judgements in {path} cannot be read: they are not in UTF-8."
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def _form(
    line: str, place: str
) -> tuple[Callable[[str, str], tuple[str, str, str]], bool]:
    """Return how lines are cut, and whether this one only names the columns."""
    if len(parts := line.split("\t")) == _BEIR_COLUMNS:
        return _beir, not _is_number(parts[-1])
    if len(line.split()) == _TREC_COLUMNS:
        return _trec, False
    raise InputError(f"{place}: no judgement of a known form.", cure=_CURE)


def _beir(line: str, place: str) -> tuple[str, str, str]:
    parts = line.split("\t")
    if len(parts) != _BEIR_COLUMNS or not parts[0] or not parts[1]:
        raise InputError(
            f"{place}: {len(parts)} columns with tabs between, not 3.", cure=_CURE
        )
    return parts[0], parts[1], parts[2]


def _trec(line: str, place: str) -> tuple[str, str, str]:
    parts = line.split()
    if len(parts) != _TREC_COLUMNS:
        raise InputError(f"{place}: {len(parts)} columns, not 4.", cure=_CURE)
    return parts[0], parts[2], parts[3]


def _relevance(text: str, place: str) -> int:
    if not _is_number(text):
        raise InputError(
            f"{place}: the relevance '{text[:40]}' is no whole number.", cure=_CURE
        )
    return int(text)


def _is_number(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal() and text.isascii()
