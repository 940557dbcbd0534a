"""What is wrong with a request, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .schemas import Problem

_BODY: Final = "Send a JSON object, with Content-Type: application/json."
_NO_NUMBER: Final = "It is no whole number"
_PLAIN: Final = {
    "bool_type": "It is neither true nor false",
    "dict_type": "It is no object",
    "extra_forbidden": "There is no such field",
    "finite_number": _NO_NUMBER,
    "float_type": _NO_NUMBER,
    "greater_than_equal": "It is less than {ge}",
    "int_from_float": _NO_NUMBER,
    "int_parsing_size": _NO_NUMBER,
    "int_type": _NO_NUMBER,
    "less_than_equal": "It is more than {le}",
    "missing": "It is missing",
    "string_pattern_mismatch": "It is empty",
    "string_too_long": "It has more than {max_length} characters",
    "string_too_short": "It is empty",
    "string_unicode": "It is no valid Unicode",
    "string_type": "It is no text",
    "too_long": "It holds more than {max_length} entries",
    "value_error": "{error}",
}
"""What stands for the words of the library, by the kinds that a request can have."""


def first_fault(faults: Sequence[Mapping[str, Any]]) -> Problem:
    """Return the first fault of those that Pydantic found: where, and what."""
    first = faults[0]
    place = first["loc"][1:]
    if first["type"] == "json_invalid" or not place:
        return Problem(error="The body is no JSON object.", cure=_BODY)
    plain = _PLAIN.get(first["type"])
    what = plain.format(**first.get("ctx", {})) if plain else first["msg"]
    if place[0] == "filters" and len(place) == 3:  # the last is [key], or a kind
        if place[2] == "[key]":
            place, what = place[:1], f"A name {what.removeprefix('It ')}"
        else:
            place, what = place[:2], "It is no text, number or truth value in limits"
    where = ".".join(str(part) for part in place) or "A field without a name"
    return Problem(error=f"{where}: {what}.", cure="See /docs.")
