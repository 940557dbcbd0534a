"""Figures as people read them."""

from __future__ import annotations

from ..retrieval.significance import Estimate

NONE = "–"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def count(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}"


def amount(number: float) -> str:
    """Return a rate or ratio with three figures."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.{1 if number >= 10 else 2}f}"


def size(number: float) -> str:
    """Return bytes in the unit that suits them."""
    power = 0
    while number >= 1024 and power < len(_UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.{0 if power == 0 else 2}f} {_UNITS[power]}"


def time(seconds: float) -> str:
    """Return a duration: `420 ms`, `8.3 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def share(part: float, whole: float) -> str:
    """Return a share in percent."""
    return f"{100 * part / whole:.1f} %" if whole else NONE


def estimate(found: Estimate | None) -> str:
    """Return a mean with its interval."""
    if found is None:
        return NONE
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def change(before: float, after: float) -> str:
    """Return by how many percent a figure changed."""
    if before == after:
        return "same"
    return f"{100 * (after - before) / before:+.1f} %" if before else NONE


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return `1 chunk`, `2 chunks`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
