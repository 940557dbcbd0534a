"""One log line for each event worth reading, plain or JSON.

Batches are not logged: progress and metrics count them. Lines hold names and figures,
never the text of a chunk or a query.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, TextIO

import orjson

from . import events as ev
from .printable import counted, printable
from .trace_ids import trace_id_of

Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["plain", "json"]

_SEVERITY: Final[Mapping[Level, int]] = MappingProxyType(
    {"debug": 10, "info": 20, "warning": 30, "error": 40}
)


def _level(event: ev.Event) -> Level:
    match event:
        case ev.CollectionFinished(error=str()):
            return "error"
        case ev.RunFinished(exit_code=code) if code != 0:
            return "error"
        case (
            ev.ItemQuarantined()
            | ev.FallbackUsed()
            | ev.MemoryRetried()
            | ev.Warned()
            | ev.StageFinished(fallback_reason=str())
            | ev.WorkRedone(damaged=True)
        ):
            return "warning"
        case ev.StageStarted():
            return "debug"
        case _:
            return "info"


def _named(stage: str, model: str | None, collection: str) -> str:
    return f"{collection}: {stage} {model}" if model else f"{collection}: {stage}"


def _rate(items: int, seconds: float) -> str:
    return f", {items / seconds:,.1f}/s" if seconds > 0 and items else ""


def _run_started(event: ev.RunStarted) -> str:
    return f"Run {event.run_id} started over {', '.join(event.collections)}"


def _run_finished(event: ev.RunFinished) -> str:
    return (
        f"Run {event.run_id} ended with exit code {event.exit_code} "
        f"after {event.seconds:,.1f} s"
    )


def _collection_started(event: ev.CollectionStarted) -> str:
    return f"{event.collection}: started"


def _collection_finished(event: ev.CollectionFinished) -> str:
    if event.error is not None:
        return f"{event.collection}: failed. {event.error}"
    if event.up_to_date:
        return (
            f"{event.collection}: up to date, {counted(event.chunks, 'chunk')}; every "
            f"file is as its sum says ({event.seconds:,.1f} s)"
        )
    return (
        f"{event.collection}: published, {counted(event.chunks, 'chunk')} "
        f"in {event.seconds:,.1f} s"
    )


def _stage_started(event: ev.StageStarted) -> str:
    total = "" if event.total is None else f", {event.total:,} {event.unit}"
    before = f", {event.done_before:,} done before" if event.done_before else ""
    name = _named(event.stage, event.model, event.collection)
    turn = "" if event.turn is None else ", pass {} of {}".format(*event.turn)
    return f"{name} started{turn}{total}{before}"


def _amount(event: ev.StageFinished) -> str:
    if not event.repeats:
        return f"{event.items:,}"
    return (
        f"{counted(event.items - event.repeats, 'text')} ({event.items:,} chunks, "
        f"{counted(event.repeats, 'repeats', 'repeat')} another)"
    )


def _stage_finished(event: ev.StageFinished) -> str:
    computed = max(0, event.items - event.repeats - event.reused)
    parts = [
        f"{_named(event.stage, event.model, event.collection)} finished, "
        f"{_amount(event)} in {event.seconds:,.1f} s"
        f"{_rate(computed, event.seconds)} on {event.device}"
    ]
    if event.reused:
        parts.append(f"{event.reused:,} from an earlier run")
    if event.tokens:
        parts.append(f"{event.tokens:,} tokens")
    if event.gpu_peak_bytes is not None:
        parts.append(f"peak {event.gpu_peak_bytes / 2**30:.2f} GiB")
    if event.candidates is not None:
        parts.append(f"{event.candidates:,} candidates")
    if event.fallback_reason is not None:
        parts.append(f"by fallback ({event.fallback_reason})")
    return ", ".join(parts)


def _stage_skipped(event: ev.StageSkipped) -> str:
    layer = f" ({event.layer})" if event.layer else ""
    return f"{event.collection}: {event.stage} skipped, {event.reason}{layer}"


def _work_redone(event: ev.WorkRedone) -> str:
    if event.stage is None:
        return f"{event.collection}: the bundle is made anew: {event.reason}"
    name = _named(event.stage, event.model, event.collection)
    return f"{name} is not all taken over: {event.reason}"


def _quarantined(event: ev.ItemQuarantined) -> str:
    place = event.file if event.index is None else f"{event.file} [{event.index}]"
    detail = f", {event.detail}" if event.detail else ""
    return f"{event.collection}: set aside {place}: {event.reason}{detail}"


def _fallback(event: ev.FallbackUsed) -> str:
    return f"{event.collection}: {event.stage} fell back, {event.reason}"


def _memory_retried(event: ev.MemoryRetried) -> str:
    return (
        f"{event.stage} {event.model}: out of memory on {event.device}, "
        f"batches now hold {event.budget_tokens:,} tokens"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _lease_changed(event: ev.LeaseChanged) -> str:
    held = f"{event.stage} {event.model} {event.action} {event.device}"
    if event.action == "acquired":
        figures = f"{_gib(event.before_bytes)} in use"
    else:
        figures = (
            f"{_gib(event.before_bytes)} before, peak {_gib(event.peak_bytes)}, "
            f"{_gib(event.after_bytes)} after"
        )
    return f"{held}: {figures}, cap {_gib(event.cap_bytes)}"


def _warned(event: ev.Warned) -> str:
    return f"{event.collection}: {event.message}" if event.collection else event.message


_SENTENCES: Final[Mapping[type[ev.Event], Callable[[Any], str]]] = MappingProxyType(
    {
        ev.RunStarted: _run_started,
        ev.RunFinished: _run_finished,
        ev.CollectionStarted: _collection_started,
        ev.CollectionFinished: _collection_finished,
        ev.StageStarted: _stage_started,
        ev.StageFinished: _stage_finished,
        ev.StageSkipped: _stage_skipped,
        ev.WorkRedone: _work_redone,
        ev.ItemQuarantined: _quarantined,
        ev.FallbackUsed: _fallback,
        ev.MemoryRetried: _memory_retried,
        ev.LeaseChanged: _lease_changed,
        ev.Warned: _warned,
    }
)


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _jsonable(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case Mapping():
            return {printable(str(key)): _jsonable(item) for key, item in value.items()}
        case tuple():
            return [_jsonable(item) for item in value]
        case _:
            return value


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


class LogListener:
    """Writes a line an event to `stream`, from `level` upwards.

    Without a stream it is whatever `sys.stderr` is at that moment, so that lines pass
    above a live progress display instead of through it. With `trace_ids`, lines of JSON
    name the trace that the run's spans are in.
    """

    def __init__(
        self,
        *,
        log_format: LogFormat = "plain",
        level: Level = "info",
        stream: TextIO | None = None,
        trace_ids: bool = False,
    ) -> None:
        self._format = log_format
        self._threshold = _SEVERITY[level]
        self._stream = stream
        self._trace_ids = trace_ids
        self._trace: dict[str, str] = {}

    def __call__(self, event: ev.Event) -> None:
        """Write the line of `event`, if it has one at this level."""
        if self._trace_ids and isinstance(event, ev.RunStarted):
            self._trace = {"trace_id": trace_id_of(event.run_id)}
        sentence = _SENTENCES.get(type(event))
        level = _level(event)
        if sentence is None or _SEVERITY[level] < self._threshold:
            return
        line = (
            self._json(event, level)
            if self._format == "json"
            else f"{_timestamp(event.at)} {level.upper():7} "
            f"{printable(sentence(event), limit=1000)}"
        )
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()

    def close(self) -> None:
        """Nothing is held: every line is out when its event has been heard."""

    def _json(self, event: ev.Event, level: Level) -> str:
        record: dict[str, Any] = {
            "at": _timestamp(event.at),
            "level": level,
            "event": _snake(type(event).__name__),
            **self._trace,
        }
        record |= {
            field.name: _jsonable(getattr(event, field.name))
            for field in fields(event)
            if field.name != "at"
        }
        return orjson.dumps(record).decode()
