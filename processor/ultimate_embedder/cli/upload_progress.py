"""How far an upload is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..settings import in_notebook
from ..telemetry.printable import printable
from ..telemetry.progress import duration
from .output import is_terminal

_LINE_SECONDS = 10.0


class Watcher(Protocol):
    """Is told how many points arrived, and what was to be waited for."""

    def advance(self, points: int) -> None:
        """Count points."""

    def say(self, line: str) -> None:
        """Show a line."""


class _Rate(ProgressColumn):
    """Points a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


@dataclass(slots=True)
class _Bar:
    progress: Progress
    total: int

    def __post_init__(self) -> None:
        self.progress.add_task("points", total=self.total)

    def advance(self, points: int) -> None:
        self.progress.advance(self.progress.task_ids[0], points)

    def say(self, line: str) -> None:
        self.progress.console.print(
            Text(printable(line, limit=1000)), soft_wrap=True, highlight=False
        )


@dataclass(slots=True)
class PlainLines:
    """Writes a line on standard error at most every `seconds`, and at the end."""

    total: int
    seconds: float = _LINE_SECONDS
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _started: float = field(init=False)
    _shown: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._shown = self.clock()

    def advance(self, points: int) -> None:
        self.done += points
        now = self.clock()
        due = now - self._shown >= self.seconds
        late_end = self.done >= self.total and self._shown > self._started
        if due or late_end:
            self._shown = now
            self.say(self.line(now))

    def line(self, now: float) -> str:
        """Return `37.5 %, 375 of 1,000 points, 75/s, 8 s left`."""
        percent = 100 * self.done / self.total
        parts = [f"{percent:.1f} %", f"{self.done:,} of {self.total:,} points"]
        elapsed = now - self._started
        if elapsed > 0 and self.done:
            rate = self.done / elapsed
            left = (self.total - self.done) / rate
            parts += [f"{rate:,.0f}/s", f"{duration(left)} left"]
        return ", ".join(parts)

    def say(self, line: str) -> None:
        sys.stderr.write(printable(line, limit=1000) + "\n")
        sys.stderr.flush()


@contextmanager
def watching(total: int, *, quiet: bool) -> Iterator[Watcher]:
    """Show how far the upload is, on standard error; only what hinders it if quiet."""
    if quiet:
        yield PlainLines(total, seconds=float("inf"))
        return
    if not is_terminal(sys.stderr) or in_notebook():
        yield PlainLines(total)
        return
    console = Console(file=sys.stderr, force_jupyter=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress, total)
