"""Formulas of Office files in one line, as one would type them: `E=mc^2`, `(a+b)/c`.

The elements are those of Office MathML (ECMA-376, part 1, 22.1). What has no form of
its own here, a matrix or an accent, is its parts in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
DELETED = frozenset((WORD + "del", WORD + "moveFrom"))


def line(element: Any) -> str:
    """Return a formula, or a part of one, without tracked deletions."""
    return "".join(_parts(element))


def _parts(element: Any) -> Iterator[str]:
    for child in element:
        name = str(child.tag).removeprefix(MATH)
        if name == "t":
            yield child.text or ""
        elif child.tag in DELETED or name.endswith("Pr") or _is_deleted(child):
            continue
        else:
            yield _FORMS.get(name, line)(child)


def _is_deleted(run: Any) -> bool:
    return run.find(f"{WORD}rPr/{WORD}del") is not None


def _of(element: Any, name: str) -> str:
    found = element.find(MATH + name)
    return "" if found is None else line(found)


def _set(element: Any, properties: str, name: str, usual: str) -> str:
    """Return a character that the properties set, the usual one where they do not."""
    found = element.find(f"{MATH}{properties}/{MATH}{name}")
    return usual if found is None else found.get(MATH + "val", "")


def _closed(text: str) -> str:
    """Return a part that can stand beside a sign: in brackets where it is several."""
    return text if len(text) < 2 or text.isalnum() else f"({text})"


def _scripts(element: Any) -> str:
    lower, upper = _of(element, "sub"), _of(element, "sup")
    return (f"_{_closed(lower)}" if lower else "") + (
        f"^{_closed(upper)}" if upper else ""
    )


def _based(element: Any) -> str:
    return _of(element, "e") + _scripts(element)


def _fraction(element: Any) -> str:
    return f"{_closed(_of(element, 'num'))}/{_closed(_of(element, 'den'))}"


def _bracketed(element: Any) -> str:
    first = _set(element, "dPr", "begChr", "(")
    between = _set(element, "dPr", "sepChr", "|")
    last = _set(element, "dPr", "endChr", ")")
    inner = between.join(line(one) for one in element.iterchildren(MATH + "e"))
    return f"{first}{inner}{last}"


def _summed(element: Any) -> str:
    sign = _set(element, "naryPr", "chr", "\u222b")
    return f"{sign}{_scripts(element)} {_of(element, 'e')}"


def _root(element: Any) -> str:
    return f"{_of(element, 'deg')}\u221a{_closed(_of(element, 'e'))}"


def _function(element: Any) -> str:
    return f"{_of(element, 'fName')} {_of(element, 'e')}"


def _below(element: Any) -> str:
    return f"{_of(element, 'e')}_{_closed(_of(element, 'lim'))}"


_FORMS = {
    "func": _function,
    "limLow": _below,
    "f": _fraction,
    "d": _bracketed,
    "nary": _summed,
    "rad": _root,
    "sSup": _based,
    "sSub": _based,
    "sSubSup": _based,
}
