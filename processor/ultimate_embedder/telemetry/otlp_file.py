"""Spans in a file: each line one `TracesData` of OTLP, in its JSON encoding.

The form is that of the OTLP file exporter's specification, which collectors and
converters read: https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from ..errors import UsageError

_KNOWS_WHETHER_REMOTE: Final = 0x100  # SpanFlags of opentelemetry/proto/trace/v1
_IS_REMOTE: Final = 0x200
_KIND_OFFSET: Final = 1  # the SDK counts span kinds from 0, OTLP from 1

_Json = dict[str, Any]


class OtlpFileExporter(SpanExporter):
    """Appends spans to a file, a line for each lot that is exported.

    Raises:
        UsageError: the file cannot be written, or is a pipe that nobody reads.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.fdopen(_open(path), "ab")
        except OSError as error:
            unread = error.errno == errno.ENXIO
            why = "nobody reads from that pipe" if unread else error.strerror
            raise UsageError(f"Spans cannot be written to {path}: {why}.") from error
        self.address = str(path)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a line and flush it."""
        self._file.write(orjson.dumps(traces_data(spans)) + b"\n")
        self._file.flush()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


def _open(path: Path) -> int:
    """Return a descriptor to append by; a pipe without a reader is not waited for."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    os.set_blocking(descriptor, True)  # a full pipe is waited for: no span is torn
    return descriptor


def traces_data(spans: Sequence[ReadableSpan]) -> _Json:
    """Return spans as OTLP's `TracesData`: ids in hexadecimal, 64-bit numbers as text.

    Empty fields are left out, as the encoding allows.
    """
    groups: defaultdict[Resource, defaultdict[InstrumentationScope | None, list[_Json]]]
    groups = defaultdict(lambda: defaultdict(list))
    for span in spans:
        groups[span.resource][span.instrumentation_scope].append(_span(span))
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource.attributes)},
                "scopeSpans": [
                    {"scope": _scope(scope), "spans": found}
                    for scope, found in scopes.items()
                ],
            }
            for resource, scopes in groups.items()
        ]
    }


def _scope(scope: InstrumentationScope | None) -> _Json:
    if scope is None:
        return {}
    return _filled({"name": scope.name, "version": scope.version})


def _span(span: ReadableSpan) -> _Json:
    context = span.get_span_context()
    if context is None:
        raise ValueError(f"The span {span.name!r} has no ids.")
    return _filled(
        {
            "traceId": f"{context.trace_id:032x}",
            "spanId": f"{context.span_id:016x}",
            "parentSpanId": f"{span.parent.span_id:016x}" if span.parent else None,
            "flags": _flags(span.parent),
            "name": span.name,
            "kind": span.kind.value + _KIND_OFFSET,
            "startTimeUnixNano": str(span.start_time or 0),
            "endTimeUnixNano": str(span.end_time or 0),
            "attributes": _attributes(span.attributes),
            "droppedAttributesCount": span.dropped_attributes,
            "events": [_event(event) for event in span.events],
            "droppedEventsCount": span.dropped_events,
            "status": _filled(
                {
                    "code": span.status.status_code.value,
                    "message": span.status.description,
                }
            ),
        }
    )


def _flags(parent: SpanContext | None) -> int:
    remote = parent is not None and parent.is_remote
    return _KNOWS_WHETHER_REMOTE | (_IS_REMOTE if remote else 0)


def _event(event: Event) -> _Json:
    return _filled(
        {
            "timeUnixNano": str(event.timestamp),
            "name": event.name,
            "attributes": _attributes(event.attributes),
        }
    )


def _attributes(attributes: Mapping[str, Any] | None) -> list[_Json]:
    return [
        {"key": key, "value": _value(value)}
        for key, value in (attributes or {}).items()
    ]


def _value(value: Any) -> _Json:
    """Return an attribute's value under the name of its type; bool is no number."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case _:
            return {"arrayValue": {"values": [_value(item) for item in value]}}


def _filled(fields: _Json) -> _Json:
    return {key: value for key, value in fields.items() if value not in (None, [], 0)}
