"""Equalities on metadata as a filter of Qdrant's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from ..errors import UsageError


def qdrant_filter(filters: Mapping[str, object]) -> dict[str, Any] | None:
    """Return a filter that holds where every field has its value; None: no condition.

    As in a bundle, a text also stands for the number or truth value that it spells.
    Unlike there, a field that holds a list fits if one of its items does.

    Raises:
        UsageError: a value is of a kind that Qdrant does not compare.
    """
    if not filters:
        return None
    return {"must": [_one(key, value) for key, value in filters.items()]}


def _one(key: str, value: object) -> dict[str, Any]:
    field = f"metadata.{key}"
    if isinstance(value, str):
        return _any_of(field, [value, *_spelled(value)])
    if isinstance(value, bool | int | float):
        return _any_of(field, [value])
    raise UsageError(
        f"Qdrant cannot compare '{key}' with {value!r}.",
        cure="Filter by a text, a number or a truth value.",
    )


def _any_of(field: str, values: list[str | bool | int | float]) -> dict[str, Any]:
    conditions = [_equal(field, value) for value in values]
    return conditions[0] if len(conditions) == 1 else {"should": conditions}


def _equal(field: str, value: str | bool | int | float) -> dict[str, Any]:
    if isinstance(value, float):
        return {"key": field, "range": {"gte": value, "lte": value}}
    return {"key": field, "match": {"value": value}}


def _spelled(text: str) -> list[bool | int | float]:
    """Return the number or truth value that a text spells as JSON does."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    plain = isinstance(value, bool | int | float)
    return [value] if plain and orjson.dumps(value).decode() == text else []
