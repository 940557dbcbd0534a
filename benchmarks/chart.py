"""A picture of benchmark tables: one bar a row, by its ratio to the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.harness import Row, Table

_WIDTH, _LABEL, _BAR, _GAP = 760, 300, 20, 14
_STYLE = """
text{font:13px system-ui,sans-serif;fill:#1b2733}
.title{font-weight:600}.other{fill:#9aa7b3}.ours{fill:#2a6fb8}.line{stroke:#5b6874}
@media (prefers-color-scheme:dark){
text{fill:#e4eaf0}.other{fill:#66727e}.ours{fill:#6fb1ee}.line{stroke:#9aa7b3}}
"""


def svg(tables: Sequence[Table]) -> str:
    """Return an SVG of the tables with a reference: bars on a logarithmic scale."""
    compared = [table for table in tables if table.reference]
    shown = [table for table in compared if any(row.ratio for row in table.rows)]
    ratios = [row.ratio for table in shown for row in table.rows if row.ratio]
    largest = max([2.0, *ratios])
    smallest = min([0.5, *ratios])
    parts: list[str] = []
    y = _GAP
    for table in shown:
        title = f"{table.title}: times as fast as {table.reference}"
        parts.append(_text(0, y + 14, title, "title"))
        y += _BAR + 4
        for row in table.rows:
            parts += _bar(row, y, smallest, largest)
            y += _BAR
        y += _GAP
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {_WIDTH + 20} {y}" '
        f'role="img" aria-label="Speed ratios">\n<style>{_STYLE}</style>\n{inside}\n'
        "</svg>\n"
    )


def _bar(row: Row, y: int, smallest: float, largest: float) -> list[str]:
    if not row.ratio:
        return [_text(0, y + 14, row.name)]
    room = _WIDTH - _LABEL - 60
    span = math.log(largest / smallest)
    one = _LABEL + room * math.log(1 / smallest) / span
    end = _LABEL + room * math.log(row.ratio / smallest) / span
    left, width = min(one, end), abs(end - one)
    kind = "ours" if row.name.startswith("ours") else "other"
    return [
        _text(0, y + 14, row.name),
        f'<rect class="{kind}" x="{left:.1f}" y="{y + 3}" width="{max(width, 1):.1f}" '
        f'height="{_BAR - 6}" rx="2"/>',
        f'<path class="line" d="M{one:.1f} {y}v{_BAR}"/>',
        _text(max(one, end) + 6, y + 14, f"{row.ratio:.3g}"),
    ]


def _text(x: float, y: int, words: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y}"{named}>{escape(words)}</text>'
