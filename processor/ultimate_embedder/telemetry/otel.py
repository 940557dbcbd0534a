"""The run as OpenTelemetry spans: `rag.run`, a child for each stage, batches below.

Spans are made from the times in the events, by a tracer provider of our own; the
process-wide one is left alone. Standard `OTEL_*` variables are read by the SDK.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from ..addresses import shown_address
from ..errors import EmbedderError, UsageError
from . import events as ev
from . import names
from .otlp_file import OtlpFileExporter
from .otlp_network import otlp_exporter
from .printable import printable
from .span_delivery import Delivery, Tell, close_all, overhearing
from .stage_span import Attributes, StageSpan, known, nanoseconds
from .trace_ids import trace_id_of

_Key = tuple[str, str, str | None]
_PACKAGE: Final = "ultimate-embedder"
_LOGGER: Final = logging.getLogger(__name__)


def otel_listener(
    endpoint: str | None,
    protocol: str | None,
    file: Path | None,
    tell: Tell = _LOGGER.warning,
) -> OtelListener:
    """Return a listener that sends spans to an address, to a file, or to both.

    Raises:
        MissingExtra: sending needs the extra `otlp`.
        UsageError: address, protocol, file or an `OTEL_*` variable cannot be used.
    """
    exporters: dict[str, SpanExporter] = {}
    try:
        if file is not None:
            exporters[str(file)] = OtlpFileExporter(file)
        if endpoint is not None:
            shown = printable(shown_address(endpoint))
            exporters[shown] = otlp_exporter(endpoint, protocol)
        return OtelListener(exporters, tell)
    except EmbedderError:
        raise
    except Exception as error:  # the SDK raises what it likes over its variables
        raise UsageError(
            f"Spans cannot be sent: {printable(str(error))}",
            cure="Look at the OTEL_* variables of the environment.",
        ) from error


class _RunIds(RandomIdGenerator):
    """Gives a run the trace id that follows from its own id."""

    trace_id: int | None = None

    def generate_trace_id(self) -> int:
        """Return the run's, or one by chance where no run has begun."""
        return self.trace_id or super().generate_trace_id()


def _resource() -> Resource:
    """Return who we are, unless `OTEL_SERVICE_NAME` or the like says otherwise."""
    who = {"service.name": names.SERVICE_NAME}
    with suppress(importlib.metadata.PackageNotFoundError):  # a checkout, not installed
        who["service.version"] = importlib.metadata.version(_PACKAGE)
    ours = Resource.create(dict(who))
    return ours.merge(OTELResourceDetector().detect())


class OtelListener:
    """Turns events into spans and hands them to `exporters`, off the caller's thread.

    `exporters` are by the name that `tell` calls them where spans are lost, once each.
    A stage span is open from StageStarted to StageFinished; one that is still open
    when its collection, the run or the listener ends is closed as an error. One that
    finished while its model holds a GPU waits for the peak that giving it back tells.
    """

    def __init__(
        self, exporters: Mapping[str, SpanExporter], tell: Tell = _LOGGER.warning
    ) -> None:
        self._deliveries = tuple(
            Delivery(exporter, name, tell) for name, exporter in exporters.items()
        )
        self._ids = _RunIds()
        self._provider = TracerProvider(
            resource=_resource(), id_generator=self._ids, shutdown_on_exit=False
        )
        for delivery in self._deliveries:
            self._provider.add_span_processor(delivery.processor)
        self._tracer = self._provider.get_tracer(names.SERVICE_NAME)
        self._run: Span | None = None
        self._stages: dict[_Key, StageSpan] = {}
        self._finished: list[StageSpan] = []  # and waiting for their GPU's peak
        self._lent: set[tuple[str, str]] = set()
        self._last_at = 0.0
        self._closed = False

    @property
    def spans_exported(self) -> Mapping[str, int]:
        """How many spans of each name the slowest exporter has taken; whole after
        `close`."""
        if not self._deliveries:
            return MappingProxyType({})
        least = self._deliveries[0].exported
        for delivery in self._deliveries[1:]:
            least = least & delivery.exported
        return MappingProxyType(dict(sorted(least.items())))

    @property
    def spans_failed(self) -> int:
        """How many spans exporters have refused or lost, summed over exporters."""
        return sum(delivery.failed for delivery in self._deliveries)

    def __call__(self, event: ev.Event) -> None:
        """Open, annotate or close the spans that `event` concerns."""
        self._last_at = max(self._last_at, event.at)
        with overhearing():
            self._hear(event)

    def _hear(self, event: ev.Event) -> None:
        match event:
            case ev.RunStarted():
                self._start_run(event)
            case ev.StageStarted():
                self._start_stage(event)
            case ev.BatchFinished():
                self._batch(event)
            case ev.StageFinished():
                self._finish_stage(event)
            case ev.StageSkipped():
                self._skipped(event)
            case ev.FallbackUsed():
                self._fell_back(event)
            case ev.MemoryRetried():
                self._retried(event)
            case ev.LeaseChanged():
                self._lease(event)
            case ev.CollectionFinished():
                self._abandon(event.error or "not finished", event.collection)
            case ev.RunFinished():
                self._finish_run(event)

    def close(self) -> None:
        """End what is open as an error, and give every span to the exporters.

        It waits for them a bounded time (`span_delivery.PATIENCE_SECONDS`).
        """
        if self._closed:
            return
        self._closed = True
        self._abandon("the run was cut short")
        if self._run is not None:
            self._run.set_status(Status(StatusCode.ERROR, "the run was cut short"))
            self._run.end(nanoseconds(self._last_at))
            self._run = None
        close_all(self._deliveries)

    def _start_run(self, event: ev.RunStarted) -> None:
        self._ids.trace_id = int(trace_id_of(event.run_id), 16)
        self._run = self._tracer.start_span(
            names.SPAN_RUN,
            start_time=nanoseconds(event.at),
            attributes=known(
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
        self._run.end(nanoseconds(event.at))
        self._run = None
        self._ids.trace_id = None

    def _start_stage(self, event: ev.StageStarted) -> None:
        parent = set_span_in_context(self._run) if self._run is not None else None
        key = (event.stage, event.collection, event.model)
        self._stages[key] = StageSpan(self._tracer, parent, event)

    def _batch(self, event: ev.BatchFinished) -> None:
        span = self._stages.get((event.stage, event.collection, event.model))
        if span is not None:
            span.batch(event)

    def _finish_stage(self, event: ev.StageFinished) -> None:
        span = self._stages.pop((event.stage, event.collection, event.model), None)
        if span is None:
            return
        span.finish(event)
        if any(stage == event.stage for stage, _ in self._lent):
            self._finished.append(span)
        else:
            span.end()

    def _skipped(self, event: ev.StageSkipped) -> None:
        attributes: Attributes = {
            names.ATTR_STAGE: event.stage,
            names.ATTR_COLLECTION: event.collection,
            names.ATTR_REASON: event.reason,
            names.ATTR_LAYER: event.layer,
        }
        span = self._open(lambda key: key[:2] == (event.stage, event.collection))
        self._annotate(span, names.SPAN_EVENT_SKIPPED, attributes, event)

    def _fell_back(self, event: ev.FallbackUsed) -> None:
        attributes: Attributes = {
            names.ATTR_STAGE: event.stage,
            names.ATTR_COLLECTION: event.collection,
            names.ATTR_REASON: event.reason,
        }
        span = self._open(lambda key: key[:2] == (event.stage, event.collection))
        self._annotate(span, names.SPAN_EVENT_FALLBACK, attributes, event)

    def _retried(self, event: ev.MemoryRetried) -> None:
        attributes: Attributes = {
            names.ATTR_STAGE: event.stage,
            names.ATTR_MODEL: event.model,
            names.ATTR_DEVICE: event.device,
            names.ATTR_BUDGET_TOKENS: event.budget_tokens,
        }
        span = self._open(lambda key: (key[0], key[2]) == (event.stage, event.model))
        self._annotate(span, names.SPAN_EVENT_MEMORY_RETRIED, attributes, event)

    def _lease(self, event: ev.LeaseChanged) -> None:
        attributes: Attributes = {
            names.ATTR_STAGE: event.stage,
            names.ATTR_MODEL: event.model,
            names.ATTR_DEVICE: event.device,
            names.ATTR_LEASE_ACTION: event.action,
            names.ATTR_CAP_BYTES: event.cap_bytes,
            names.ATTR_BEFORE_BYTES: event.before_bytes,
            names.ATTR_GPU_PEAK_BYTES: event.peak_bytes,
            names.ATTR_AFTER_BYTES: event.after_bytes,
        }
        span = self._open(lambda key: (key[0], key[2]) == (event.stage, event.model))
        self._annotate(span, names.SPAN_EVENT_LEASE, attributes, event)
        held = (event.stage, event.device)
        if event.action == "acquired":
            self._lent.add(held)
            return
        self._lent.discard(held)
        concerned = (*self._stages.values(), *self._finished)
        for stage in concerned:
            if stage.stage == event.stage:
                stage.peaked(event.peak_bytes)
        if not any(stage == event.stage for stage, _ in self._lent):
            self._end_finished(lambda stage: stage.stage == event.stage)

    def _annotate(
        self, span: Span | None, name: str, attributes: Attributes, event: ev.Event
    ) -> None:
        if span is not None:
            span.add_event(name, known(attributes), nanoseconds(event.at))

    def _open(self, wanted: Callable[[_Key], bool]) -> Span | None:
        """Return the first open stage span whose key is wanted, else the run's span."""
        found = (stage.span for key, stage in self._stages.items() if wanted(key))
        return next(found, self._run)

    def _end_finished(self, wanted: Callable[[StageSpan], bool]) -> None:
        for stage in [one for one in self._finished if wanted(one)]:
            self._finished.remove(stage)
            stage.end()

    def _abandon(self, why: str, collection: str | None = None) -> None:
        """Close open stages, of one collection or of all, as failed."""
        for key in list(self._stages):
            if collection in (None, key[1]):
                self._stages.pop(key).fail(printable(why), self._last_at)
        self._end_finished(lambda stage: collection in (None, stage.collection))
