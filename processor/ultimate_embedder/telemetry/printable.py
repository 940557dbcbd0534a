"""Strings from outside, made fit for a terminal, a label and a log line."""

from __future__ import annotations

import unicodedata

_NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return `1 chunk`, `2,000 chunks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def printable(text: str, limit: int = 300) -> str:
    """Return `text` on one line, without control characters, at most `limit` long.

    Controls, line separators, invisible format characters (they can reverse what is
    read) and lone surrogates become U+FFFD; a cut ends in an ellipsis.
    """
    shown = "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(char) in _NOT_SHOWN
        else char
        for char in text[: limit + 1]
    )
    if len(shown) <= limit:
        return shown
    return shown[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
