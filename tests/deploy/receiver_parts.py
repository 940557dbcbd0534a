"""A receiver beside a test, and what it was sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

RECEIVER = Path(__file__).with_name("otlp_receiver.py")


def value(found: AnyValue) -> Any:
    """Return an attribute's value."""
    kind = found.WhichOneof("value")
    if kind == "array_value":
        return [value(one) for one in found.array_value.values]
    return getattr(found, str(kind))


def attributes(found: Any) -> dict[str, Any]:
    """Return the attributes of a span, an event or a resource."""
    pairs: list[KeyValue] = list(found.attributes)
    return {pair.key: value(pair.value) for pair in pairs}


@dataclass(frozen=True, slots=True)
class Receiver:
    """A process that takes spans; `ports` are by protocol."""

    folder: Path
    ports: dict[str, int]
    process: subprocess.Popen[str]

    def endpoint(self, protocol: str = "http/protobuf") -> str:
        """Return the address for a protocol."""
        return f"http://127.0.0.1:{self.ports[protocol.partition('/')[0]]}"

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        """What has come, in order."""
        return [
            ExportTraceServiceRequest.FromString(path.read_bytes())
            for path in sorted(self.folder.glob("*.pb"))
        ]

    @property
    def spans(self) -> list[Span]:
        """The spans that have come."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The attributes of each request's resource."""
        return [
            attributes(found.resource)
            for request in self.requests
            for found in request.resource_spans
        ]


@contextmanager
def receiver(folder: Path, *options: str) -> Iterator[Receiver]:
    """Run a receiver; `options` are those of the program."""
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, str(RECEIVER), str(folder), *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        try:
            yield Receiver(folder, ports, process)
        finally:
            process.kill()
