"""The run as OpenTelemetry spans: `rag.run` and one child for each stage.

Spans are made from the times in the events, by a tracer provider of our own; the
process-wide one is left alone. Standard `OTEL_*` variables are read by the SDK.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from ..errors import MissingExtra, UsageError
from . import events as ev
from . import names
from .printable import printable

_Attributes = Mapping[str, str | int | float | bool | Sequence[str] | None]
_Key = tuple[str, str, str | None]

_GRPC_PORT: Final = 4317  # registered for OTLP over gRPC; 4318 is OTLP over HTTP
_TRACES_PATH: Final = "/v1/traces"
_LOGGER: Final = logging.getLogger(__name__)


def otlp_exporter(endpoint: str, protocol: str | None = None) -> SpanExporter:
    """Return an exporter to an OTLP collector.

    `protocol` is `grpc` or `http/protobuf`; without one the port decides: 4317 speaks
    gRPC, every other HTTP. An HTTP address is a base, as OTEL_EXPORTER_OTLP_ENDPOINT
    is: spans go to `v1/traces` below it, unless it says so already.

    Raises:
        MissingExtra: the extra `otlp` is not installed.
        UsageError: the protocol or the endpoint is of no known kind.
    """
    address = urlsplit(endpoint)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise UsageError(
            f"'{printable(endpoint)}' is no OTLP endpoint.",
            cure="Give an address such as http://localhost:4318.",
        )
    if protocol is None:
        protocol = "grpc" if address.port == _GRPC_PORT else "http/protobuf"
    if protocol == "grpc":
        return _grpc_exporter(endpoint)
    if protocol == "http/protobuf":
        base = endpoint.rstrip("/")
        named = address.path.rstrip("/").endswith(_TRACES_PATH)
        return _http_exporter(base if named else base + _TRACES_PATH)
    raise UsageError(
        f"OTLP protocol '{printable(protocol)}' is not supported.",
        cure="Use grpc or http/protobuf.",
    )


def _grpc_exporter(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter,
        )
    except ImportError as error:
        raise MissingExtra("Sending spans by OTLP", "otlp") from error
    return OTLPSpanExporter(endpoint=endpoint)


def _http_exporter(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter,
        )
    except ImportError as error:
        raise MissingExtra("Sending spans by OTLP", "otlp") from error
    return OTLPSpanExporter(endpoint=endpoint)


class JsonLinesSpanExporter(SpanExporter):
    """Appends each span to a file as one line of JSON, in the SDK's own form.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"Spans cannot be written to {path}: {error.strerror}."
            ) from error

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans and flush them."""
        for span in spans:
            self._file.write(span.to_json(indent=None) + "\n")
        self._file.flush()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


class _Guarded(SpanExporter):
    """An exporter that may break without anyone upstream noticing, and is counted."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._reported = False
        self.exported: Counter[str] = Counter()
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001 - foreign code: anything may be raised
            self._report(error)
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.exported.update(span.name for span in spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        try:
            self._inner.shutdown()
        except Exception as error:  # noqa: BLE001 - foreign code: anything may be raised
            self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._reported:
            _LOGGER.warning(
                "Spans are being lost, %s failed: %s",
                type(self._inner).__name__,
                printable(repr(error)),
            )
        self._reported = True


def _resource() -> Resource:
    """Return our service name, unless `OTEL_SERVICE_NAME` or the like gives another."""
    ours = Resource({"service.name": names.SERVICE_NAME})
    return ours.merge(OTELResourceDetector().detect())


def _nanoseconds(at: float) -> int:
    return round(at * 1e9)


def _known(attributes: _Attributes) -> dict[str, str | int | float | bool | list[str]]:
    """Return the attributes that have a value, strings made printable."""
    return {
        key: printable(value)
        if isinstance(value, str)
        else [printable(item) for item in value]
        if isinstance(value, Sequence)
        else value
        for key, value in attributes.items()
        if value is not None
    }


class OtelListener:
    """Turns events into spans and hands them to `exporters`, off the caller's thread.

    A stage span is open from StageStarted to StageFinished; one that is still open
    when its collection, the run or the listener ends is closed as an error.
    """

    def __init__(self, *exporters: SpanExporter) -> None:
        self._guards = tuple(_Guarded(exporter) for exporter in exporters)
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        for guard in self._guards:
            self._provider.add_span_processor(BatchSpanProcessor(guard))
        self._tracer = self._provider.get_tracer(names.SERVICE_NAME)
        self._run: Span | None = None
        self._stages: dict[_Key, Span] = {}
        self._last_at = 0.0
        self._closed = False

    @property
    def spans_exported(self) -> Mapping[str, int]:
        """How many spans of each name the slowest exporter has taken; whole after
        `close`."""
        if not self._guards:
            return MappingProxyType({})
        least = self._guards[0].exported
        for guard in self._guards[1:]:
            least = least & guard.exported
        return MappingProxyType(dict(sorted(least.items())))

    @property
    def spans_failed(self) -> int:
        """How many spans exporters have refused or lost, summed over exporters."""
        return sum(guard.failed for guard in self._guards)

    def __call__(self, event: ev.Event) -> None:
        """Open, annotate or close the spans that `event` concerns."""
        self._last_at = max(self._last_at, event.at)
        match event:
            case ev.RunStarted():
                self._start_run(event)
            case ev.StageStarted():
                self._start_stage(event)
            case ev.StageFinished():
                self._finish_stage(event)
            case ev.StageSkipped():
                self._annotate(names.SPAN_EVENT_SKIPPED, event)
            case ev.FallbackUsed():
                self._annotate(names.SPAN_EVENT_FALLBACK, event)
            case ev.MemoryRetried():
                self._annotate_memory(event)
            case ev.LeaseChanged():
                self._annotate_lease(event)
            case ev.CollectionFinished():
                self._abandon(event.error or "not finished", event.collection)
            case ev.RunFinished():
                self._finish_run(event)

    def close(self) -> None:
        """End what is open as an error, and give every span to the exporters."""
        if self._closed:
            return
        self._closed = True
        self._abandon("the run was cut short")
        if self._run is not None:
            self._run.set_status(Status(StatusCode.ERROR, "the run was cut short"))
            self._run.end(_nanoseconds(self._last_at))
            self._run = None
        self._provider.shutdown()

    def _start_run(self, event: ev.RunStarted) -> None:
        self._run = self._tracer.start_span(
            names.SPAN_RUN,
            start_time=_nanoseconds(event.at),
            attributes=_known(
                {
                    names.ATTR_RUN_ID: event.run_id,
                    names.ATTR_COLLECTIONS: event.collections,
                }
            ),
        )

    def _finish_run(self, event: ev.RunFinished) -> None:
        self._abandon("the run ended first")
        if self._run is None:
            return
        self._run.set_attribute(names.ATTR_EXIT_CODE, event.exit_code)
        if event.exit_code != 0:
            self._run.set_status(Status(StatusCode.ERROR, f"exit {event.exit_code}"))
        self._run.end(_nanoseconds(event.at))
        self._run = None

    def _start_stage(self, event: ev.StageStarted) -> None:
        parent = set_span_in_context(self._run) if self._run is not None else None
        key = (event.stage, event.collection, event.model)
        self._stages[key] = self._tracer.start_span(
            names.STAGE_SPANS[event.stage],
            context=parent,
            start_time=_nanoseconds(event.at),
            attributes=_known(
                {
                    names.ATTR_STAGE: event.stage,
                    names.ATTR_COLLECTION: event.collection,
                    names.ATTR_MODEL: event.model,
                    names.ATTR_RESUMED: event.done_before or None,
                }
            ),
        )

    def _finish_stage(self, event: ev.StageFinished) -> None:
        span = self._stages.pop((event.stage, event.collection, event.model), None)
        if span is None:
            return
        span.set_attributes(
            _known(
                {
                    names.ATTR_ITEMS: event.items,
                    names.ATTR_UNIT: names.STAGE_ITEMS[event.stage],
                    names.ATTR_TOKENS: event.tokens or None,
                    names.ATTR_DEVICE: event.device,
                    names.ATTR_CANDIDATES: event.candidates,
                    names.ATTR_GPU_PEAK_BYTES: event.gpu_peak_bytes,
                    names.ATTR_FALLBACK: event.fallback_reason is not None,
                    names.ATTR_FALLBACK_REASON: event.fallback_reason,
                }
            )
        )
        span.end(_nanoseconds(event.at))

    def _annotate(self, name: str, event: ev.StageSkipped | ev.FallbackUsed) -> None:
        """Put a point in time on the open span of that stage, else on the run's."""
        span = self._open(lambda key: key[:2] == (event.stage, event.collection))
        if span is not None:
            span.add_event(
                name,
                attributes=_known(
                    {
                        names.ATTR_STAGE: event.stage,
                        names.ATTR_COLLECTION: event.collection,
                        names.ATTR_REASON: event.reason,
                    }
                ),
                timestamp=_nanoseconds(event.at),
            )

    def _annotate_memory(self, event: ev.MemoryRetried) -> None:
        span = self._open(lambda key: (key[0], key[2]) == (event.stage, event.model))
        if span is not None:
            span.add_event(
                names.SPAN_EVENT_MEMORY_RETRIED,
                attributes=_known(
                    {
                        names.ATTR_STAGE: event.stage,
                        names.ATTR_MODEL: event.model,
                        names.ATTR_DEVICE: event.device,
                        names.ATTR_BUDGET_TOKENS: event.budget_tokens,
                    }
                ),
                timestamp=_nanoseconds(event.at),
            )

    def _annotate_lease(self, event: ev.LeaseChanged) -> None:
        span = self._open(lambda key: (key[0], key[2]) == (event.stage, event.model))
        if span is not None:
            span.add_event(
                names.SPAN_EVENT_LEASE,
                attributes=_known(
                    {
                        names.ATTR_STAGE: event.stage,
                        names.ATTR_MODEL: event.model,
                        names.ATTR_DEVICE: event.device,
                        names.ATTR_LEASE_ACTION: event.action,
                        names.ATTR_CAP_BYTES: event.cap_bytes,
                        names.ATTR_BEFORE_BYTES: event.before_bytes,
                        names.ATTR_GPU_PEAK_BYTES: event.peak_bytes,
                        names.ATTR_AFTER_BYTES: event.after_bytes,
                    }
                ),
                timestamp=_nanoseconds(event.at),
            )

    def _open(self, wanted: Callable[[_Key], bool]) -> Span | None:
        """Return the first open stage span whose key is wanted, else the run's span."""
        found = (span for key, span in self._stages.items() if wanted(key))
        return next(found, self._run)

    def _abandon(self, why: str, collection: str | None = None) -> None:
        """Close open stages, of one collection or of all, as failed."""
        for key in list(self._stages):
            if collection in (None, key[1]):
                span = self._stages.pop(key)
                span.set_status(Status(StatusCode.ERROR, printable(why)))
                span.end(_nanoseconds(self._last_at))
