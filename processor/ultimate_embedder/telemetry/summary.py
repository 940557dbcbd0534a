"""The telemetry section of a manifest: spans and metrics as the events imply them.

No library is needed and nothing has to listen elsewhere: the same names and figures
that the OpenTelemetry and Prometheus listeners report, for one collection.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from . import events as ev
from . import names


class MetricsSummary:
    """Counts spans by name and sums metrics by name, for one collection or for all.

    Metrics with labels are keyed as Prometheus writes them: `name{label="value"}`.
    """

    def __init__(self, collection: str | None = None) -> None:
        self._collection = collection
        self._spans: Counter[str] = Counter()
        self._metrics: defaultdict[str, float] = defaultdict(float)

    def __call__(self, event: ev.Event) -> None:
        """Count what `event` says."""
        at = getattr(event, "collection", None)
        if self._collection is not None and at not in (None, self._collection):
            return
        match event:
            case ev.StageFinished():
                self._stage(event)
            case ev.BatchFinished():
                self._batch(event)
            case ev.ItemQuarantined(index=None):
                self._add(names.FILES_QUARANTINED_TOTAL, 1, stage="read")
            case ev.ItemQuarantined():
                self._add(names.CHUNKS_TOTAL, 1, stage="read", outcome="quarantined")
            case ev.FallbackUsed():
                self._add(names.FALLBACK_TOTAL, 1, stage=event.stage)
            case ev.MemoryRetried():
                self._add(names.OOM_RETRIES_TOTAL, 1, stage=event.stage)
            case ev.LeaseChanged():
                self._lease(event)

    def close(self) -> None:
        """Nothing is held."""

    @property
    def spans(self) -> dict[str, int]:
        """Spans that have ended, by name."""
        return dict(sorted(self._spans.items()))

    @property
    def metrics(self) -> dict[str, float]:
        """Metric values, by name and labels; latencies as `_count` and `_sum`."""
        return {name: round(value, 6) for name, value in sorted(self._metrics.items())}

    def _add(self, name: str, amount: int, **labels: str) -> None:
        self._metrics[_labelled(name, labels)] += amount

    def _highest(self, name: str, figure: int, **labels: str) -> None:
        key = _labelled(name, labels)
        self._metrics[key] = max(self._metrics[key], figure)

    def _lease(self, event: ev.LeaseChanged) -> None:
        self._highest(names.GPU_CAP_BYTES, event.cap_bytes, device=event.device)
        self._highest(
            names.GPU_PEAK_BYTES,
            event.peak_bytes,
            stage=event.stage,
            device=event.device,
        )

    def _latency(self, stage: ev.Stage, seconds: float) -> None:
        name = names.LATENCY_METRICS[stage]
        self._metrics[f"{name}_count"] += 1
        self._metrics[f"{name}_sum"] += seconds

    def _stage(self, event: ev.StageFinished) -> None:
        self._spans[names.STAGE_SPANS[event.stage]] += 1
        if event.stage == "export":
            self._latency("export", event.seconds)

    def _batch(self, event: ev.BatchFinished) -> None:
        if event.stage in names.LATENCY_METRICS and event.stage != "export":
            self._latency(event.stage, event.seconds)
        if event.model is None:
            return
        for kind, tokens in (
            ("embedded", event.tokens),
            ("padded", event.padded_tokens),
            ("truncated", event.truncated_tokens),
        ):
            if tokens:
                self._add(names.TOKENS_TOTAL, tokens, model=event.model, kind=kind)


def _labelled(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}"
