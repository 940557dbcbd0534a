"""Progress with an estimate of the time left, stage by stage.

On a terminal a live display; elsewhere (a file, a pipe, a notebook) now and then a
plain line, free of control characters.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from . import events as ev
from .printable import printable

_Key = tuple[str, str, str | None]


def _key(
    event: ev.StageStarted | ev.BatchFinished | ev.StageFinished,
) -> _Key:
    return (event.stage, event.collection, event.model)


def _title(key: _Key, turn: tuple[int, int] | None) -> str:
    """Return `docs dense bge-m3 (pass 2 of 3)`, as far as there is that to say."""
    stage, collection, model = key
    named = f"{collection} {stage} {model}" if model else f"{collection} {stage}"
    passes = "" if turn is None else " (pass {} of {})".format(*turn)
    return printable(f"{named}{passes}")


def duration(seconds: float) -> str:
    """Return seconds as a person says them: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(slots=True)
class _Work:
    """How far one stage is; `at` values are seconds since 1970, as in the events."""

    total: int | None
    unit: str
    done: int
    before: int
    started_at: float
    shown_at: float
    title: str

    def line(self, now: float) -> str:
        """Return `37.5 %, 375 of 1,000 chunks, 75.0/s, 8 s left`, or what is known."""
        elapsed = now - self.started_at
        rate = (self.done - self.before) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.done:,} {self.unit}"]
        if self.total:
            percent = min(100.0, 100 * self.done / self.total)
            parts = [f"{percent:.1f} %", f"{self.done:,} of {self.total:,} {self.unit}"]
        if rate > 0:
            parts.append(f"{rate:,.1f}/s")
            if self.total:
                left = max(0, self.total - self.done) / rate
                parts.append(f"{duration(left)} left")
        return ", ".join(parts)


class _RateColumn(ProgressColumn):
    """Items a second, of this run."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "")


class ProgressListener:
    """Shows how far each stage is.

    `live` is decided by the stream unless given. `interval_seconds` is the least time
    between two plain lines of one stage.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        live: bool | None = None,
        interval_seconds: float = 5.0,
    ) -> None:
        self._stream = stream or sys.stderr
        self._interval = interval_seconds
        self._work: dict[_Key, _Work] = {}
        self._tasks: dict[_Key, TaskID] = {}
        console = Console(file=self._stream, force_jupyter=False)
        usable = self._stream.isatty() and not console.is_dumb_terminal
        self._live = (
            self._display(console) if (usable if live is None else live) else None
        )

    def __call__(self, event: ev.Event) -> None:
        """Move the display forward; events without progress are passed over."""
        match event:
            case ev.StageStarted():
                self._start(event)
            case ev.BatchFinished():
                self._advance(event)
            case ev.StageFinished():
                self._finish(event)
            case ev.CollectionFinished(collection=name):
                for key in [key for key in self._work if key[1] == name]:
                    self._drop(key)
            case ev.RunFinished():
                self.close()

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self._live is not None:
            self._live.stop()

    @staticmethod
    def _display(console: Console) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
            transient=True,
        )

    def _start(self, event: ev.StageStarted) -> None:
        key = _key(event)
        self._work[key] = _Work(
            total=event.total,
            unit=event.unit,
            done=event.done_before,
            before=event.done_before,
            started_at=event.at,
            shown_at=event.at,
            title=_title(key, event.turn),
        )
        if self._live is not None:
            self._live.start()
            self._tasks[key] = self._live.add_task(
                self._work[key].title, total=event.total, completed=event.done_before
            )

    def _advance(self, event: ev.BatchFinished) -> None:
        key = _key(event)
        work = self._work.get(key)
        if work is None:
            return
        work.done += event.items
        if self._live is not None:
            self._live.advance(self._tasks[key], event.items)
        elif event.at - work.shown_at >= self._interval:
            work.shown_at = event.at
            self._stream.write(f"{work.title}: {work.line(event.at)}\n")
            self._stream.flush()

    def _finish(self, event: ev.StageFinished) -> None:
        self._drop(_key(event))

    def _drop(self, key: _Key) -> None:
        self._work.pop(key, None)
        task = self._tasks.pop(key, None)
        if self._live is not None and task is not None:
            self._live.remove_task(task)
