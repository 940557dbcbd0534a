"""HTML that cannot forget to escape: text becomes markup through `tag` alone."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

VOID = frozenset({"meta", "link", "rect", "line", "circle", "path", "polyline"})
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
TEXT_LIMIT = 300
"""Characters of one piece of text; longer ones lose their middle."""


class Html(str):
    """Markup; any other string is text and is escaped when it is put into a tag."""

    __slots__ = ()


Part = str | int | None
"""What a tag may hold. None is nothing."""


def escaped(text: str) -> Html:
    """Return text as markup: control and direction characters as `\\uXXXX`, clipped."""
    visible = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", clipped(text))
    return Html(html.escape(visible))


def clipped(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return text of at most `limit` characters; an ellipsis stands for its middle."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def joined(parts: Iterable[Part]) -> Html:
    """Return parts one after the other, text escaped."""
    return Html(
        "".join(
            part if isinstance(part, Html) else escaped(str(part))
            for part in parts
            if part is not None
        )
    )


def tag(name: str, /, *parts: Part, **attributes: str | float | None) -> Html:
    """Return an element. `class_` is `class`, `_` in names is `-`, None is left out.

    Values of attributes that are markup stand as they are.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{joined([_word(value)])}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{shown}/>")
    return Html(f"<{name}{shown}>{joined(parts)}</{name}>")


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else str(value)


def long_text(text: str) -> Html:
    """Return a text that may be longer than others, whole but for its far end."""
    return joined(text[at : at + 250] for at in range(0, min(len(text), 4000), 250))


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable[Part]],
    *,
    caption: str,
    numbers: Iterable[str] = (),
) -> Html:
    """Return a table; the first column names its rows, `numbers` stand on the right."""
    names = list(columns)
    right = {names.index(name) for name in numbers}
    sides = ["number" if place in right else None for place in range(len(names))]
    head = [
        tag("th", name, scope="col", class_=side)
        for name, side in zip(names, sides, strict=True)
    ]
    body = [
        tag("tr", *(_cell(place, cell, sides[place]) for place, cell in enumerate(row)))
        for row in rows
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *head)),
            tag("tbody", *body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _cell(place: int, cell: Part, side: str | None) -> Html:
    if place == 0:
        return tag("th", cell, scope="row", class_=side)
    return tag("td", cell, class_=side)


def section(key: str, title: str, *parts: Part) -> Html:
    """Return a section with its heading, or nothing where it would be empty."""
    inside = joined(parts)
    if not inside:
        return Html()
    heading = tag("h2", title, id=f"{key}-heading")
    return tag("section", heading, inside, id=key, aria_labelledby=f"{key}-heading")


def folded(summary: str, *parts: Part) -> Html:
    """Return what a reader opens by hand; on paper it is open."""
    return tag("details", tag("summary", summary), *parts)


def remark(*parts: Part) -> Html:
    """Return a short paragraph in a quiet colour."""
    return tag("p", *parts, class_="remark")
