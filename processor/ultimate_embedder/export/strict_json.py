"""JSON lines whose numbers come back bit for bit.

orjson writes a float32 with the fewest digits that name it, and NaN as null; so values
are looked at before they are written. Reading goes through float64, which rounds twice:
`7.038531e-26` names float32 0x15AE43FD and a plain cast returns its neighbour.
`to_float32` decides such ties from the exact decimal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..records import Float32Array

_SUBNORMAL = 2.0**-126
_LOST_BITS = np.int64(0x1FFFFFFF)  # of a float64's fraction, beyond a float32's
_HALF = np.int64(0x10000000)


def dumps(value: Any) -> bytes:
    """Return `value` as one JSON line with its line break; NumPy arrays are lists.

    Raises:
        ValueError: something in it cannot be JSON; says what.
    """
    try:
        return orjson.dumps(
            value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        )
    except TypeError as error:  # huge integer, lone surrogate, nesting, other types
        raise ValueError(str(error)) from error


def non_finite_place(value: Any, place: str = "") -> str | None:
    """Return where in nested lists and dicts a NaN or an infinity stands, or None."""
    if isinstance(value, float | np.floating):
        return None if math.isfinite(value) else place
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        return None if np.isfinite(value).all() else place
    if isinstance(value, dict):
        pairs = (
            (f"{place}.{key}" if place else str(key), v) for key, v in value.items()
        )
    elif isinstance(value, list | tuple):
        pairs = ((f"{place}[{index}]", v) for index, v in enumerate(value))
    else:
        return None
    found = (non_finite_place(item, inner) for inner, item in pairs)
    return next((inner for inner in found if inner is not None), None)


def to_float32(numbers: Sequence[float]) -> Float32Array:
    """Return float32 [n]: each number rounded once from the decimal that was read.

    Raises:
        ValueError: something is not a number, or is out of range.
    """
    try:
        doubles = np.array(numbers, dtype=np.float64)
    except (TypeError, OverflowError) as error:
        raise ValueError("not a list of numbers") from error
    if doubles.ndim != 1:
        raise ValueError("not a list of numbers")
    with np.errstate(over="ignore"):
        singles = doubles.astype(np.float32)
    if not np.isfinite(singles).all():
        raise ValueError("a number is out of the range of float32")
    halfway = (doubles.view(np.int64) & _LOST_BITS) == _HALF
    halfway |= (np.abs(doubles) < _SUBNORMAL) & (doubles != 0)
    for place in np.flatnonzero(halfway):
        singles[place] = _nearest(float(doubles[place]), singles[place])
    return singles


def _nearest(double: float, guess: np.float32) -> np.float32:
    """Return the float32 nearest to the shortest decimal of `double`, ties to even."""
    decimal = Fraction(repr(double))
    infinity = np.float32(np.inf)
    candidates = (guess, np.nextafter(guess, -infinity), np.nextafter(guess, infinity))
    finite = [value for value in candidates if np.isfinite(value)]
    return min(finite, key=lambda value: abs(Fraction(float(value)) - decimal))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file: `number` from 1, `offset` in bytes, content without its end."""

    number: int
    offset: int
    content: bytes
    ended: bool


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file, one at a time; only a line feed ends a line."""
    offset = 0
    with path.open("rb") as stream:
        for number, content in enumerate(stream, start=1):
            body = content.removesuffix(b"\n")
            yield Line(number, offset, body, len(body) < len(content))
            offset += len(content)
