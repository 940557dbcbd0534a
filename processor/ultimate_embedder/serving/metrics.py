"""What the service counts, for Prometheus. No text of a query is in a label."""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from ..telemetry.prometheus import LeanRegistry

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
CLIENT_LEFT: Final = 499
"""Counted where nobody waited for the answer; the number is the one nginx logs."""
_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class ServiceMetrics:
    """Requests by route and status, and seconds of searches by stage."""

    def __init__(self) -> None:
        self.registry = LeanRegistry()
        self._requests = Counter(
            "rag_service_requests",
            "Requests that were answered.",
            ("route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "rag_service_search_seconds",
            "What a stage of a search took; 'total' is the whole search.",
            ("stage",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._running = Gauge(
            "rag_service_requests_running",
            "Requests that are being answered.",
            registry=self.registry,
        )

    def started(self) -> None:
        """Count a request that begins."""
        self._running.inc()

    def answered(self, route: str, status: int) -> None:
        """Count a request that ended; `route` is the pattern, not the path."""
        self._running.dec()
        self._requests.labels(route, str(status)).inc()

    def searched(self, milliseconds: dict[str, float]) -> None:
        """Count what a search's stages took."""
        for stage, took in milliseconds.items():
            self._seconds.labels(stage).observe(took / 1000)

    def page(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
