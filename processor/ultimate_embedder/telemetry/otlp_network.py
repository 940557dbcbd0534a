"""Exporters that send spans to an OTLP receiver, by gRPC or HTTP.

Headers, certificates, compression and time limits are read from the standard
`OTEL_EXPORTER_OTLP_*` variables by the exporters themselves.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.sdk.trace.export import SpanExporter

from ..addresses import address_parts, without_login
from ..errors import MissingExtra, UsageError
from .printable import printable

_GRPC_PORT: Final = 4317  # registered for OTLP over gRPC; 4318 is OTLP over HTTP
_TRACES_PATH: Final = "/v1/traces"


def otlp_exporter(endpoint: str, protocol: str | None = None) -> SpanExporter:
    """Return an exporter to an OTLP collector.

    `protocol` is `grpc` or `http/protobuf`; without one the port decides: 4317 speaks
    gRPC, every other HTTP. An HTTP address is a base, as OTEL_EXPORTER_OTLP_ENDPOINT
    is: spans go to `v1/traces` below it, unless it says so already.

    Raises:
        MissingExtra: the extra `otlp` is not installed.
        UsageError: the protocol or the endpoint is of no known kind.
    """
    address = address_parts(endpoint)
    if (
        address is None
        or address.scheme not in {"http", "https"}
        or not address.hostname
    ):
        raise UsageError(
            f"'{printable(without_login(endpoint))}' is no OTLP endpoint.",
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
