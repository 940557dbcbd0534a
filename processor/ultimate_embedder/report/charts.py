"""Pictures as inline SVG, 340 units wide: as wide as a phone shows at full size.

Colours are classes of the style sheet, so that a picture follows light and dark. Each
says in its title and description what it shows, for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .markup import Html, Part, clipped, long_text, remark, tag

WIDTH = 340.0
_ROW = 36.0
_LABEL = 40
_CHARACTER = 7.6  # width of one in a row's text, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row of a bar chart; `mark` is a limit drawn across it, `tone` its colour."""

    label: str
    value: float
    told: str
    mark: float | None = None
    tone: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """A mean with its interval."""

    label: str
    value: float
    low: float
    high: float
    told: str
    tone: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line in steps `width` wide, the first at `start`; values from 0 on."""

    label: str
    start: float
    width: float
    y: Sequence[float]
    tone: int = 0


def figure(key: str, title: str, told: str, height: float, *shapes: Html) -> Html:
    """Return a picture with its caption; `told` is its description in words."""
    svg = tag(
        "svg",
        tag("title", title, id=f"{key}-t"),
        tag("desc", long_text(told), id=f"{key}-d"),
        *shapes,
        viewBox=f"0 0 {_n(WIDTH)} {_n(height)}",
        role="img",
        aria_labelledby=f"{key}-t {key}-d",
    )
    return tag("figure", tag("figcaption", title), svg)


def noted(picture: Html, *note: Part) -> Html:
    """Return a picture with a remark beneath it."""
    told = [part for part in note if part]
    return tag("div", picture, remark(*told) if told else None, class_="card")


def bars(key: str, title: str, rows: Sequence[Bar], *, most: float = 0.0) -> Html:
    """Return bars from 0 on, each beneath its label and figure."""
    top = max([most, *(max(row.value, row.mark or 0.0) for row in rows)]) or 1.0
    shapes = []
    for number, row in enumerate(rows):
        y = number * _ROW
        wide = WIDTH * max(0.0, row.value) / top
        shapes += _row_text(y, row.label, row.told)
        shapes.append(_box(0, y + 18, WIDTH, 10, "track"))
        shapes.append(_box(0, y + 18, max(wide, 1.5), 10, f"tone{row.tone % 4}"))
        if row.mark is not None:
            x = min(WIDTH - 1, WIDTH * row.mark / top)
            shapes.append(_stroke(x, y + 14, x, y + 32, "limit"))
    told = "; ".join(f"{row.label}: {row.told}" for row in rows)
    return figure(key, title, told, len(rows) * _ROW, *shapes)


def whiskers(
    key: str, title: str, rows: Sequence[Whisker], *, low: float, high: float
) -> Html:
    """Return means with their intervals on one scale from `low` to `high`."""

    def at(value: float) -> float:
        return 4 + (WIDTH - 8) * (min(max(value, low), high) - low) / (high - low)

    shapes = []
    for number, row in enumerate(rows):
        y = number * _ROW
        shapes += _row_text(y, row.label, row.told)
        shapes.append(_stroke(at(low), y + 23, at(high), y + 23, "grid"))
        if low < 0 < high:
            shapes.append(_stroke(at(0), y + 16, at(0), y + 30, "limit"))
        tone = f"tone{row.tone % 4}"
        left, right = at(row.low), at(row.high)
        shapes.append(_box(left, y + 20.5, max(right - left, 1), 5, f"{tone} faint"))
        shapes.append(
            tag("circle", cx=_n(at(row.value)), cy=_n(y + 23), r="5", class_=tone)
        )
    bottom = len(rows) * _ROW
    shapes += _scale(bottom, [(at(v), f"{v:g}") for v in _ticks(low, high)])
    told = "; ".join(f"{row.label}: {row.told}" for row in rows)
    return figure(key, title, told, bottom + 16, *shapes)


def lines(
    key: str,
    title: str,
    drawn: Sequence[Line],
    *,
    told: str,
    x_ticks: Sequence[tuple[float, str]],
    y_told: Sequence[tuple[float, str]],
) -> Html:
    """Return lines over one pair of axes from 0 on, with a legend above them.

    Ticks are values with their words; the last of each is the end of its axis.
    """
    top, end = y_told[-1][0] or 1.0, x_ticks[-1][0] or 1.0
    head = 18.0 * len(drawn) + 10
    high, bottom = 110.0, head + 110.0
    shapes = []
    for value, word in y_told:
        y = bottom - high * value / top
        shapes.append(_stroke(0, y, WIDTH, y, "grid"))
        shapes.append(_words(0, y - 3, word, "tick"))
    for number, line in enumerate(drawn):
        tone = f"tone{line.tone % 4}"
        shapes.append(_box(0, number * 18 + 3, 12, 8, tone))
        shapes.append(_words(18, number * 18 + 11, clipped(line.label, _LABEL)))
        points = " ".join(
            f"{_n(WIDTH * min(x / end, 1.0))},{_n(bottom - high * y / top)}"
            for x, y in _steps(line)
        )
        shapes.append(tag("polyline", points=Html(points), class_=f"line {tone}"))
    shapes += _scale(bottom, [(WIDTH * x / end, word) for x, word in x_ticks])
    return figure(key, title, told, bottom + 16, *shapes)


def columns(
    key: str,
    title: str,
    counts: Sequence[int],
    *,
    told: str,
    ticks: Sequence[tuple[float, str]],
    mark: float | None,
    mark_told: str,
) -> Html:
    """Return a histogram; `ticks` and `mark` are places from 0 to the last column."""
    top, wide = max(counts) or 1, WIDTH / len(counts)
    high, bottom = 110.0, 130.0
    shapes = []
    for number, counted in enumerate(counts):
        tall = high * counted / top
        if counted:
            tall = max(tall, 1.5)
        beyond = mark is not None and number >= mark
        tone = "tone1" if beyond else "tone0"
        shapes.append(_box(number * wide + 0.75, bottom - tall, wide - 1.5, tall, tone))
    if mark is not None and mark <= len(counts):
        x = mark * wide
        side = "end" if x > WIDTH / 2 else "start"
        shapes.append(_stroke(x, 4, x, bottom, "limit"))
        gap = -5 if side == "end" else 5
        shapes.append(_words(x + gap, 13, mark_told, "tick", side))
    shapes.append(_stroke(0, bottom, WIDTH, bottom, "axis"))
    shapes += _scale(bottom, [(place * wide, word) for place, word in ticks])
    return figure(key, title, told, bottom + 16, *shapes)


def _steps(line: Line) -> Iterator[tuple[float, float]]:
    for number, y in enumerate(line.y):
        yield line.start + number * line.width, y
        yield line.start + (number + 1) * line.width, y


def _row_text(y: float, label: str, told: str) -> list[Html]:
    room = max(8, int(WIDTH / _CHARACTER) - len(told) - 2)
    return [
        _words(0, y + 13, clipped(label, min(_LABEL, room))),
        _words(WIDTH, y + 13, told, "value", "end"),
    ]


def _ticks(low: float, high: float) -> list[float]:
    return [round(low + (high - low) * part / 4, 3) for part in range(5)]


def _scale(y: float, ticks: Sequence[tuple[float, str]]) -> list[Html]:
    found = []
    for x, word in ticks:
        side = "start" if x < 20 else "end" if x > WIDTH - 30 else "middle"
        found.append(_words(x, y + 13, word, "tick", side))
    return found


def _words(
    x: float, y: float, words: str, class_: str | None = None, side: str | None = None
) -> Html:
    anchor = side if side != "start" else None
    return tag("text", words, x=_n(x), y=_n(y), class_=class_, text_anchor=anchor)


def _box(x: float, y: float, wide: float, high: float, class_: str) -> Html:
    return tag(
        "rect",
        x=_n(x),
        y=_n(y),
        width=_n(wide),
        height=_n(high),
        rx="2",
        class_=class_,
    )


def _stroke(x: float, y: float, to_x: float, to_y: float, class_: str) -> Html:
    return tag("line", x1=_n(x), y1=_n(y), x2=_n(to_x), y2=_n(to_y), class_=class_)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
