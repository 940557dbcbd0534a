"""The run as Prometheus metrics, in a textfile for the node exporter or over HTTP.

Names and labels stand in `names`; the registry is our own, so that nothing of the
process leaks in and two runs in one process do not meet.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
    write_to_textfile,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ..errors import UsageError
from . import events as ev
from . import names
from .bounded_labels import BoundedLabels
from .printable import printable
from .trace_ids import trace_id_of

_BUCKETS: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "dense": (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
        "sparse": (
            0.002,
            0.005,
            0.01,
            0.025,
            0.05,
            0.1,
            0.25,
            0.5,
            1.0,
            2.5,
            5.0,
            10.0,
        ),
        "rerank": (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0),
        "export": (
            *(0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0),
        ),
    }
)
_LATENCY_HELP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dense": "Seconds for a batch of dense vectors.",
        "sparse": "Seconds for a batch of sparse vectors.",
        "rerank": "Seconds to rerank one query.",
        "export": "Seconds to export one collection.",
    }
)
_ADDRESS: Final = "127.0.0.1"
_REASON_LENGTH: Final = 80  # a label value, not a message
# A run has at most 200 series, whatever it is called with: 99 that every run may have,
# three for a model, one for a reason, four for a device, and `other` for each.
_MODELS: Final = 14
_REASONS_A_STAGE: Final = 5
_DEVICES: Final = 8
_LOGGER: Final = logging.getLogger(__name__)


class _Server(Protocol):
    """What is used of the HTTP server."""

    server_port: int

    def shutdown(self) -> None: ...
    def server_close(self) -> None: ...


class LeanRegistry(CollectorRegistry):
    """Without the library's `_created` series: nobody reads them, all would store
    them."""

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [
                sample
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            yield family


def _last_success(path: Path) -> float | None:
    """Return the time of the last success that an earlier run left in the textfile."""
    try:
        families = list(text_string_to_metric_families(path.read_text("utf-8")))
    except (OSError, ValueError):
        return None  # none yet, or not ours: it will be replaced
    for family in families:
        if family.name == names.LAST_SUCCESS and family.samples:
            return float(family.samples[0].value)
    return None


class PrometheusListener:
    """Keeps the metrics; writes `textfile` at the end of each stage and of the run.

    The textfile appears by rename: a reader sees the old one or the new one. The time
    of the last success is carried over from the file that is replaced. With
    `exemplars`, histograms name the trace of the run to those who ask for OpenMetrics.
    `tell` is told, once, that the textfile is not being written.

    Raises:
        UsageError: the folder of the textfile does not exist.
    """

    def __init__(
        self,
        textfile: Path | None = None,
        *,
        exemplars: bool = False,
        tell: Callable[[str], None] = _LOGGER.warning,
    ) -> None:
        if textfile is not None and not textfile.parent.is_dir():
            raise UsageError(
                f"Metrics cannot be written to {textfile}: its folder does not exist."
            )
        self.registry: CollectorRegistry = LeanRegistry()
        self._textfile = textfile
        self._exemplars = exemplars
        self._exemplar: dict[str, str] | None = None
        self._tell = tell
        self._reported = False
        self._server: _Server | None = None
        self._thread: Thread | None = None
        self._success: Gauge | None = None
        self._counted: dict[tuple[str, str, str | None], int] = {}
        self._bounded = BoundedLabels()
        self._make_metrics()
        before = _last_success(textfile) if textfile is not None else None
        if before is not None:
            self._succeeded(before)

    def __call__(self, event: ev.Event) -> None:
        """Count what `event` says."""
        match event:
            case ev.RunStarted() if self._exemplars:
                self._exemplar = {"trace_id": trace_id_of(event.run_id)}
            case ev.StageStarted():
                self._stage_started(event)
            case ev.StageSkipped():
                state = "disabled" if event.layer else "not_run"
                self._stages.labels(event.stage, state, event.layer or "").set(1)
            case ev.BatchFinished():
                self._batch(event)
            case ev.StageFinished():
                self._stage_finished(event)
                self.write()
            case ev.ItemQuarantined(index=None):
                self._files_quarantined.labels("read").inc()
            case ev.ItemQuarantined():
                self._chunks.labels("read", "quarantined").inc()
            case ev.FallbackUsed():
                reason = self._bounded.value(
                    f"reason of {event.stage}",
                    printable(event.reason, _REASON_LENGTH),
                    _REASONS_A_STAGE,
                )
                self._fallbacks.labels(event.stage, reason).inc()
            case ev.MemoryRetried():
                self._oom_retries.labels(event.stage).inc()
            case ev.LeaseChanged():
                self._lease(event)
            case ev.RunFinished():
                if event.exit_code == 0:
                    self._succeeded(event.at)
                self.write()

    def serve(self, port: int) -> int:
        """Serve `/metrics` on the loopback address; return the port (0 picks one).

        Raises:
            UsageError: the port cannot be had.
        """
        try:
            server, self._thread = start_http_server(
                port, addr=_ADDRESS, registry=self.registry
            )
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"Metrics cannot be served on port {port}: {_why(error)}.",
                cure="Choose another with --metrics-port.",
            ) from error
        self._server = server
        return int(server.server_port)

    def write(self) -> None:
        """Replace the textfile. A failure is reported once and stops nothing."""
        if self._textfile is None:
            return
        try:
            write_to_textfile(str(self._textfile), self.registry)
        except OSError as error:
            if not self._reported:
                place = printable(str(self._textfile))
                self._tell(f"Metrics are not being written to {place}: {_why(error)}")
            self._reported = True

    def close(self) -> None:
        """Write the textfile a last time and stop serving."""
        self.write()
        if self._server is not None and self._thread is not None:
            ending = Thread(target=self._server.shutdown)
            ending.start()
            # It looks twice a second whether it is to end, or when somebody calls.
            with (
                suppress(OSError),
                socket.create_connection(
                    (_ADDRESS, self._server.server_port), timeout=1
                ),
            ):
                ending.join()
            ending.join()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def _make_metrics(self) -> None:
        self._latency: dict[str, Histogram] = {}
        self._gpu_peak = self._gauge(
            names.GPU_PEAK_BYTES,
            "Most device memory of this run's processes, contexts included, in bytes.",
        )
        self._gpu_cap = self._gauge(
            names.GPU_CAP_BYTES, "Limit of device memory in bytes."
        )
        self._candidates = self._gauge(
            names.CANDIDATE_COUNT,
            "Candidates of the stage's latest run, all queries together.",
        )
        self._chunks = self._counter(
            names.CHUNKS_TOTAL,
            "Chunks by stage, summed over models: done, resumed from an earlier run, "
            "quarantined; empty are those done or resumed that have no sparse entry.",
        )
        self._files_quarantined = self._counter(
            names.FILES_QUARANTINED_TOTAL,
            "Whole files set aside: how many chunks they hold is not known.",
        )
        self._tokens = self._counter(
            names.TOKENS_TOTAL,
            "Tokens by model: embedded, padded (positions computed in all), truncated.",
        )
        self._fallbacks = self._counter(
            names.FALLBACK_TOTAL, "Times a stage used its second choice."
        )
        self._oom_retries = self._counter(
            names.OOM_RETRIES_TOTAL,
            "Times a batch was made smaller for lack of memory.",
        )
        self._stages = self._gauge(
            names.STAGE_INFO,
            "1 for each state of a stage in this run: on, disabled by a layer of the "
            "settings, not_run because something was missing.",
        )

    def _begin(self, stage: ev.Stage) -> None:
        """Make what a stage that runs starts with at 0, so that a rise is a rise.

        A stage that does not run has none of it.
        """
        if stage in self._latency or stage not in names.LATENCY_METRICS:
            return
        self._latency[stage] = Histogram(
            names.LATENCY_METRICS[stage],
            _LATENCY_HELP[stage],
            buckets=_BUCKETS[stage],
            registry=self.registry,
        )
        if stage != "export":
            self._oom_retries.labels(stage)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, names.METRIC_LABELS[name], registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, names.METRIC_LABELS[name], registry=self.registry)

    def _stage_started(self, event: ev.StageStarted) -> None:
        key = (event.stage, event.collection, event.model)
        self._stages.labels(event.stage, "on", "").set(1)
        self._begin(event.stage)
        if event.unit not in ("chunks", "texts"):
            return
        self._counted[key] = event.done_before
        if event.done_before:
            self._chunks.labels(event.stage, "resumed").inc(event.done_before)

    def _batch(self, event: ev.BatchFinished) -> None:
        key = (event.stage, event.collection, event.model)
        self._begin(event.stage)
        if event.stage in self._latency and event.stage != "export":
            self._latency[event.stage].observe(event.seconds, self._exemplar)
        if key in self._counted:
            self._counted[key] += event.items
            self._chunks.labels(event.stage, "done").inc(event.items)
        if event.model is None:
            return
        model = self._bounded.value("model", printable(event.model), _MODELS)
        for kind, tokens in (
            ("embedded", event.tokens),
            ("padded", event.padded_tokens),
            ("truncated", event.truncated_tokens),
        ):
            if tokens:
                self._tokens.labels(model, kind).inc(tokens)

    def _stage_finished(self, event: ev.StageFinished) -> None:
        key = (event.stage, event.collection, event.model)
        rest = event.items - self._counted.pop(key, 0)  # in no batch: equal texts, say
        if names.STAGE_ITEMS[event.stage] == "chunks" and rest > 0:
            self._chunks.labels(event.stage, "done").inc(rest)
        if event.stage == "export":
            self._begin("export")
            self._latency["export"].observe(event.seconds, self._exemplar)
        if event.stage == "sparse":
            self._chunks.labels("sparse", "empty").inc(event.empty)
        if event.candidates is not None:
            self._candidates.labels(event.stage).set(event.candidates)
        if event.gpu_peak_bytes is not None:
            self._peak(event.stage, event.device, event.gpu_peak_bytes)

    def _lease(self, event: ev.LeaseChanged) -> None:
        if event.device == "cpu":
            return
        device = self._bounded.value("device", event.device, _DEVICES)
        self._gpu_cap.labels(device).set(event.cap_bytes)
        self._peak(event.stage, event.device, event.peak_bytes)

    def _peak(self, stage: str, device: str, peak_bytes: int) -> None:
        """Keep the highest peak seen."""
        device = self._bounded.value("device", device, _DEVICES)
        before = self.registry.get_sample_value(
            names.GPU_PEAK_BYTES, {"stage": stage, "device": device}
        )
        self._gpu_peak.labels(stage, device).set(max(peak_bytes, before or 0))

    def _succeeded(self, at: float) -> None:
        """Set the time of the last success; until there is one, there is no sample."""
        if self._success is None:
            self._success = self._gauge(
                names.LAST_SUCCESS, "When a run last ended with exit code 0."
            )
        self._success.set(at)


def _why(error: OSError | OverflowError) -> str:
    """Return what the system says, without its number."""
    return getattr(error, "strerror", None) or str(error)
