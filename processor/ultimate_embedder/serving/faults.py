"""What is wrong with a request, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .schemas import Problem

_BODY: Final = "Send a JSON object, with Content-Type: application/json."
_PLAIN: Final = {"string_pattern_mismatch": "It is empty"}
"""What stands for a pattern, which nobody reads."""


def first_fault(faults: Sequence[Mapping[str, Any]]) -> Problem:
    """Return the first fault of those that Pydantic found: where, and what."""
    first = faults[0]
    place = first["loc"][1:]
    if first["type"] == "json_invalid" or not place:
        return Problem(error="The body is no JSON object.", cure=_BODY)
    what = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    if place[0] == "filters" and len(place) == 3:  # the last names one of the kinds
        place, what = place[:2], "It is no text, number or truth value within limits"
    where = ".".join(str(part) for part in place)
    return Problem(error=f"{where}: {what}.", cure="See /docs.")
