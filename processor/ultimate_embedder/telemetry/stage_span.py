"""The span of one stage over one collection, with spans of some of its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context

from . import events as ev
from . import names
from .printable import printable
from .thinning import Thinning

Attributes = Mapping[str, str | int | float | bool | Sequence[str] | None]


def nanoseconds(at: float) -> int:
    """Return seconds since 1970 as spans count time."""
    return round(at * 1e9)


def known(attributes: Attributes) -> dict[str, str | int | float | bool | list[str]]:
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


class StageSpan:
    """A stage from its start to its end; `end` gives the span to the exporters."""

    def __init__(
        self, tracer: Tracer, parent: Context | None, event: ev.StageStarted
    ) -> None:
        self.stage = event.stage
        self.collection = event.collection
        self._tracer = tracer
        self._name = names.STAGE_SPANS[event.stage]
        self._common = {
            names.ATTR_STAGE: event.stage,
            names.ATTR_COLLECTION: event.collection,
            names.ATTR_MODEL: event.model,
        }
        self._batches = Thinning()
        self._largest = 0
        self._tokens = 0
        self._peak_bytes: int | None = None
        self._ended_at = event.at
        self.span: Span = tracer.start_span(
            self._name,
            context=parent,
            start_time=nanoseconds(event.at),
            attributes=known(
                {**self._common, names.ATTR_RESUMED: event.done_before or None}
            ),
        )

    def batch(self, event: ev.BatchFinished) -> None:
        """Count a batch; it has a span of its own if it is one of those shown."""
        self._largest = max(self._largest, event.batch_size or event.items)
        self._tokens += event.tokens
        stands_for = self._batches.take()
        if not stands_for:
            return
        span = self._tracer.start_span(
            self._name + names.BATCH_SPAN_SUFFIX,
            context=set_span_in_context(self.span),
            start_time=nanoseconds(event.at - event.seconds),
            attributes=known(
                {
                    **self._common,
                    names.ATTR_DEVICE: event.device,
                    names.ATTR_ITEMS: event.items,
                    names.ATTR_BATCH_SIZE: event.batch_size or event.items,
                    names.ATTR_TOKENS: event.tokens or None,
                    names.ATTR_PADDED_TOKENS: event.padded_tokens or None,
                    names.ATTR_TRUNCATED_TOKENS: event.truncated_tokens or None,
                    names.ATTR_CANDIDATES: event.candidates,
                    names.ATTR_BATCH_NUMBER: self._batches.seen,
                    names.ATTR_BATCH_STANDS_FOR: stands_for,
                }
            ),
        )
        span.end(nanoseconds(event.at))

    def finish(self, event: ev.StageFinished) -> None:
        """Take up the figures of a stage that ended well."""
        if event.gpu_peak_bytes is not None:
            self.peaked(event.gpu_peak_bytes)
        self._ended_at = event.at
        self.span.set_attributes(
            known(
                {
                    names.ATTR_ITEMS: event.items,
                    names.ATTR_UNIT: names.STAGE_ITEMS[event.stage],
                    names.ATTR_TOKENS: event.tokens or self._tokens or None,
                    names.ATTR_BATCHES: self._batches.seen,
                    names.ATTR_BATCH_SIZE: self._largest or None,
                    names.ATTR_DEVICE: event.device,
                    names.ATTR_CANDIDATES: event.candidates,
                    names.ATTR_FALLBACK: event.fallback_reason is not None,
                    names.ATTR_FALLBACK_REASON: event.fallback_reason,
                }
            )
        )

    def peaked(self, peak_bytes: int) -> None:
        """A GPU that the stage used held so much; the highest is kept."""
        self._peak_bytes = max(self._peak_bytes or 0, peak_bytes)

    def end(self) -> None:
        """End the span when its stage did."""
        if self._peak_bytes is not None:
            self.span.set_attribute(names.ATTR_GPU_PEAK_BYTES, self._peak_bytes)
        self.span.end(nanoseconds(self._ended_at))

    def fail(self, why: str, at: float) -> None:
        """End the span as an error."""
        self.span.set_status(Status(StatusCode.ERROR, why))
        self._ended_at = at
        self.end()
