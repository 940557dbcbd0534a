"""Tables for people: drawn by Rich on a terminal, aligned text elsewhere.

Header and tables go to standard output, progress and log lines to standard error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..settings import in_notebook
from ..telemetry.printable import printable

Format = Literal["rich", "plain", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table as data. Columns named in `numbers` stand flush right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = ()


def choose_format(asked: str | None, *, is_terminal: bool, notebook: bool) -> Format:
    """Return how to write: control characters only where a terminal shows them.

    `rich` on anything but a terminal becomes `plain`; unasked, so does a notebook.
    """
    if asked == "json":
        return "json"
    if asked == "plain" or not is_terminal:
        return "plain"
    return "rich" if asked == "rich" or not notebook else "plain"


def stdout_format(asked: str | None = None) -> Format:
    """Return how to write on this process's standard output; see `choose_format`."""
    return choose_format(
        asked, is_terminal=is_terminal(sys.stdout), notebook=in_notebook()
    )


def is_terminal(stream: TextIO) -> bool:
    """Say whether a stream is a terminal that understands control codes."""
    return stream.isatty() and not Console(file=stream).is_dumb_terminal


def show_sheet(sheet: Sheet, *, style: Format) -> None:
    """Write a table on standard output; nothing under `json`."""
    if style == "rich":
        Console(force_jupyter=False).print(_drawn(sheet))
    elif style == "plain":
        sys.stdout.write(plain_text(sheet))
        sys.stdout.flush()


def plain_text(sheet: Sheet) -> str:
    """Return a table as lines of text with aligned columns."""
    rows = [tuple(map(_cell, row)) for row in (sheet.columns, *sheet.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [name in sheet.numbers for name in sheet.columns]
    lines = [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    if not any(sheet.columns):
        lines = lines[1:]
    return "\n".join([sheet.title, *(f"  {line}" for line in lines)]) + "\n"


def _drawn(sheet: Sheet) -> Table:
    table = Table(
        title=Text(sheet.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(sheet.columns),
    )
    for position, name in enumerate(sheet.columns):
        table.add_column(
            Text(name),
            justify="right" if name in sheet.numbers else "left",
            style="bold" if position == 0 else "",
            overflow="fold",
        )
    for row in sheet.rows:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    return table


def _cell(text: str) -> str:
    return printable(text, limit=1000)


def count(figure: int | float) -> str:
    """Return a whole number with separators: `12,345`."""
    return f"{figure:,.0f}"


def rate(items: float, seconds: float) -> str:
    """Return items a second: `153.2`, or `-` when no time passed."""
    return f"{items / seconds:,.1f}" if seconds > 0 else "-"
