"""Queries from a file: JSON lines of `{"_id", "text"}`, as BEIR writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..records import Query

MAX_QUERY_CHARACTERS = 10_000


def read_queries(path: Path) -> list[Query]:
    """Return the queries of a file in its order.

    Raises:
        UsageError: naming the file, the line and what is wrong with it.
    """
    try:
        # Only a line feed ends a line: JSON strings may hold U+2028 and its like.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"The queries in {path} cannot be read: {why}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The queries in {path} cannot be read: they are not in UTF-8."
        ) from error
    queries = [
        _query(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    ids = [query.query_id for query in queries]
    if len(set(ids)) < len(ids):
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise UsageError(f"Two queries in {path} have the id '{repeated}'.")
    if not queries:
        raise UsageError(f"{path} holds no query.", cure='A line: {"_id", "text"}.')
    return queries


def _query(line: str, place: str) -> Query:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: no JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:  # endless digits, deep nesting
        raise UsageError(f"{place}: no JSON that can be read.") from error
    if not isinstance(record, dict):
        raise UsageError(f'{place}: needs an object with "_id" and "text".')
    query_id = record.get("_id")
    if isinstance(query_id, bool) or not isinstance(query_id, str | int):
        raise UsageError(f'{place}: "_id" must be a string or a whole number.')
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{place}: the text is missing or blank.")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise UsageError(
            f"{place}: {len(text)} characters; the limit is {MAX_QUERY_CHARACTERS}."
        )
    try:
        f"{query_id}{text}".encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{place}: the id or text is no valid Unicode.") from error
    return Query(str(query_id), text)
