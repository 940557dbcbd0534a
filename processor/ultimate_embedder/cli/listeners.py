"""The listeners of a run, chosen by its reporting settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast

from ..settings import ReportingConfig
from ..telemetry.events import Emit, Event, fan_out
from ..telemetry.logs import Level, LogFormat, LogListener
from ..telemetry.progress import ProgressListener
from .output import Format


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
        for make in (_progress, _logs, _metrics, _spans):
            for listener in make(reporting, style):
                stack.callback(listener.close)
                listeners.append(listener)
        yield fan_out(listeners)


def _progress(_: ReportingConfig, style: Format) -> Sequence[ClosableListener]:
    if style == "json":
        return []  # every line there is a JSON object
    return [ProgressListener(live=None if style == "rich" else False)]


def _logs(reporting: ReportingConfig, style: Format) -> Sequence[ClosableListener]:
    log_format: LogFormat = "json" if style == "json" else "plain"
    level = cast(Level, reporting.log_level)
    return [LogListener(log_format=log_format, level=level)]


def _metrics(reporting: ReportingConfig, _: Format) -> Sequence[ClosableListener]:
    if reporting.metrics_textfile is None and reporting.metrics_port is None:
        return []
    from ..telemetry.prometheus import PrometheusListener

    listener = PrometheusListener(reporting.metrics_textfile)
    if reporting.metrics_port is not None:
        listener.serve(reporting.metrics_port)
    return [listener]


def _spans(reporting: ReportingConfig, _: Format) -> Sequence[ClosableListener]:
    if reporting.otlp_endpoint is None:
        return []
    from ..telemetry.otel import OtelListener, otlp_exporter

    exporter = otlp_exporter(reporting.otlp_endpoint, reporting.otlp_protocol)
    return [OtelListener(exporter)]
