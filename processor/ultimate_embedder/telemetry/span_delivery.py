"""What stands between a run and the exporters of its spans, so that none can harm it.

Spans are exported by a thread of the SDK. A receiver that is down, slow or dies loses
them: it is told once, and the end of a run waits for it a bounded time.
"""

from __future__ import annotations

import logging
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from .printable import printable

Tell = Callable[[str], None]

PATIENCE_SECONDS: Final = 3.0
"""How long the end of a run waits for spans to be taken."""
_LITTLE_PATIENCE_SECONDS: Final = 0.5  # for one that has not taken the last ones
_REASON_LENGTH: Final = 200
_IN_WORDS: Final = {
    "connection refused": "connection refused",
    "no route to host": "there is no route to it",
    "network is unreachable": "its network is not reached",
    "name or service not known": "there is no host of this name",
    "domain name not found": "there is no host of this name",
    "name resolution": "the host's name cannot be looked up",
    "connection reset": "the connection broke",
    "without response": "the connection broke",
    "certificate_verify_failed": "its certificate is not trusted",
    "timed out": "no answer in time",
    "deadline_exceeded": "no answer in time",
}
"""What the libraries say somewhere in a long remark, and what it means."""
_SDK_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
_hearing = threading.local()


class _Overheard(logging.Filter):
    """Keeps the SDK's remarks on our exports from the terminal; remembers the first.

    It would repeat them for as long as a receiver is down. What it says of other
    exporters in the process, on their threads, passes.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        heard: list[str] | None = getattr(_hearing, "remarks", None)
        if heard is None:
            return True
        heard.append(record.getMessage())
        return False


_OVERHEARD: Final = _Overheard()


@contextmanager
def overhearing() -> Iterator[list[str]]:
    """Collect what the SDK remarks on this thread meanwhile."""
    before = getattr(_hearing, "remarks", None)
    remarks: list[str] = []
    _hearing.remarks = remarks
    try:
        yield remarks
    finally:
        _hearing.remarks = before


class Delivery(SpanExporter):
    """Hands spans to one exporter and counts what it takes and what is lost.

    `address` is how the receiver is called when spans are lost.
    """

    def __init__(self, inner: SpanExporter, address: str, tell: Tell) -> None:
        for name in _SDK_LOGGERS:
            logging.getLogger(name).addFilter(_OVERHEARD)  # once, however often added
        self._inner = inner
        self._address = address
        self._tell = tell
        self._told = False
        self._given_up = False
        self._last_failed = False
        self._remarks: list[str] = []
        self._lock = threading.Lock()
        self.exported: Counter[str] = Counter()
        self.failed = 0
        self.processor = BatchSpanProcessor(self)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Return whether they were taken; nothing is raised."""
        reason = "the run has ended"
        result = SpanExportResult.FAILURE
        if not self._given_up:
            with overhearing() as self._remarks:
                try:
                    result = self._inner.export(spans)
                except Exception as error:  # noqa: BLE001 - foreign code: anything may be raised
                    self._remarks.append(repr(error))
            reason = self._remarks[0] if self._remarks else "no reason given"
        self._last_failed = result is not SpanExportResult.SUCCESS
        if self._last_failed:
            self.failed += len(spans)
            self._lost(reason)
        else:
            self.exported.update(span.name for span in spans)
        return result

    def shutdown(self) -> None:
        """Let go of the exporter; again, it does nothing."""
        with self._lock:
            if self._given_up:
                return
            self._given_up = True
        with overhearing():
            try:
                self._inner.shutdown()
            except Exception as error:  # noqa: BLE001 - foreign code: anything may be raised
                self._lost(repr(error))

    def close(self) -> None:
        """Have the rest taken, or give up: what the exporter then does is its own."""
        patience_seconds = PATIENCE_SECONDS
        if self._last_failed:
            patience_seconds = min(patience_seconds, _LITTLE_PATIENCE_SECONDS)
        thread = threading.Thread(target=self.processor.shutdown, daemon=True)
        thread.start()
        thread.join(patience_seconds)
        if thread.is_alive():
            waited = f"no answer within {patience_seconds:g} s"
            self._lost(self._remarks[0] if self._remarks else waited)
            self.shutdown()

    def _lost(self, reason: str) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            self._tell(f"Spans are being lost at {self._address}: {in_words(reason)}")


def in_words(remark: str) -> str:
    """Return what a library's remark comes to; one of no known kind, cut at a word."""
    folded = remark.casefold()
    for said, meant in _IN_WORDS.items():
        if said in folded:
            return meant
    short = textwrap.shorten(
        remark, _REASON_LENGTH, placeholder=" \N{HORIZONTAL ELLIPSIS}"
    )
    return printable(short, _REASON_LENGTH)


def close_all(deliveries: Sequence[Delivery]) -> None:
    """Close them side by side: one that is slow takes no time from another."""
    threads = [
        threading.Thread(target=delivery.close, daemon=True) for delivery in deliveries
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2 * PATIENCE_SECONDS  # closing an exporter takes time too
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
