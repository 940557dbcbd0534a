"""The listeners of a run, chosen by its reporting settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast

from ..settings import ReportingConfig
from ..telemetry.events import Emit, Event, Warned, fan_out
from ..telemetry.logs import Level, LogFormat, LogListener
from ..telemetry.progress import ProgressListener
from .output import Format

Tell = Callable[[str], None]


class ClosableListener(Protocol):
    """A listener that holds something until it is closed."""

    def __call__(self, event: Event) -> None:
        """Hear an event."""

    def close(self) -> None:
        """Write and let go of what is held."""


@contextmanager
def listening(reporting: ReportingConfig, style: Format) -> Iterator[Emit]:
    """Give an `Emit` to the listeners asked for, and close them at the end.

    Raises:
        MissingExtra: one needs a library that is not installed.
        UsageError: a file or port cannot be used.
    """
    with ExitStack() as stack:
        listeners: list[ClosableListener] = []
        log = _log(reporting, style)

        def tell(message: str) -> None:
            log(Warned(message=message))

        for found in (
            _progress(style),
            [log],
            _metrics(reporting, tell),
            _spans(reporting, tell),
        ):
            for listener in found:
                stack.callback(listener.close)
                listeners.append(listener)
        yield fan_out(listeners)


def _traced(reporting: ReportingConfig) -> bool:
    return reporting.otlp_endpoint is not None or reporting.otlp_file is not None


def _progress(style: Format) -> Sequence[ClosableListener]:
    if style == "json":
        return []  # every line there is a JSON object
    return [ProgressListener(live=None if style == "rich" else False)]


def _log(reporting: ReportingConfig, style: Format) -> LogListener:
    log_format: LogFormat = "json" if style == "json" else "plain"
    level = cast(Level, reporting.log_level)
    return LogListener(log_format=log_format, level=level, trace_ids=_traced(reporting))


def _metrics(reporting: ReportingConfig, tell: Tell) -> Sequence[ClosableListener]:
    if reporting.metrics_textfile is None and reporting.metrics_port is None:
        return []
    from ..telemetry.prometheus import PrometheusListener

    listener = PrometheusListener(
        reporting.metrics_textfile, exemplars=_traced(reporting), tell=tell
    )
    if reporting.metrics_port is not None:
        listener.serve(reporting.metrics_port)
    return [listener]


def _spans(reporting: ReportingConfig, tell: Tell) -> Sequence[ClosableListener]:
    if not _traced(reporting):
        return []
    from ..telemetry.otel import otel_listener

    return [
        otel_listener(
            reporting.otlp_endpoint,
            reporting.otlp_protocol,
            reporting.otlp_file,
            tell,
        )
    ]
