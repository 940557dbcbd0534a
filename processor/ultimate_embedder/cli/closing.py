"""The closing tables of a run, read from its manifests: an outcome in figures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ..disk_space import gib
from ..export.manifest import Manifest
from ..export.manifest_sections import (
    DenseRun,
    FusionRun,
    RerankNotRun,
    RerankRan,
)
from ..records import SparseInferenceRun
from ..telemetry.printable import counted
from ..telemetry.progress import duration
from .closing_quality import differences_sheet, probes_told, quality_sheet
from .output import Sheet, count, rate

_COLLECTION_COLUMNS = (
    "collection",
    "files",
    "files set aside",
    "read",
    "embedded",
    "set aside",
    "cut at the window",
    "tokens",
)
_STAGE_COLUMNS = ("collection", "stage", "model", "items", "time", "per second")


@dataclass(frozen=True, slots=True, kw_only=True)
class _StageLine:
    """One stage in figures; `details` are short phrases."""

    stage: str
    model: str = "-"
    items: int = 0
    seconds: float = 0.0
    reused: int = 0  # of the items, by an earlier run
    repeats: int = 0  # of the items: computed with another that has the same text
    details: tuple[str, ...] = ()

    @property
    def computed(self) -> int:
        """Items that took the stage's time."""
        return max(0, self.items - self.reused - self.repeats)


EARLIER = ", as of the run that made the bundle"
"""What stands behind a title where the figures are not of this run."""


def closing_sheets(
    manifests: Sequence[Manifest], up_to_date: Collection[str] = ()
) -> list[Sheet]:
    """Return what was done, stage by stage, how well it can be searched, and what a
    person should know. Tables without rows are left out.

    `up_to_date` names collections whose bundles were left as they were."""
    now = [one for one in manifests if one.collection not in up_to_date]
    earlier = [one for one in manifests if one.collection in up_to_date]
    made = [
        _collections(manifests),
        *(make(now) for make in (_stages, _details)),
        *(_titled(make(earlier), EARLIER) for make in (_stages, _details)),
        *(make(manifests) for make in (quality_sheet, differences_sheet, _warnings)),
    ]
    return [sheet for sheet in made if sheet.rows]


def _titled(sheet: Sheet, more: str) -> Sheet:
    return replace(sheet, title=sheet.title + more)


def _collections(manifests: Sequence[Manifest]) -> Sheet:
    return Sheet(
        title="Collections",
        columns=_COLLECTION_COLUMNS,
        rows=tuple(_collection_row(manifest) for manifest in manifests),
        numbers=_COLLECTION_COLUMNS[1:],
    )


def _collection_row(manifest: Manifest) -> tuple[str, ...]:
    counts = manifest.conservation
    tokens = sum(subdir.tokens for subdir in manifest.source_subdirs.values())
    if counts is None:
        return (
            manifest.collection,
            "-",
            "-",
            "-",
            count(manifest.chunk_count),
            "-",
            "-",
            "-",
        )
    return (
        manifest.collection,
        count(counts.files_read),
        count(counts.files_aside),
        count(counts.chunks_read),
        count(counts.embedded),
        count(counts.chunks_aside),
        count(counts.truncated_chunks),
        count(tokens),
    )


def _stages(manifests: Sequence[Manifest]) -> Sheet:
    return Sheet(
        title="Stages",
        columns=_STAGE_COLUMNS,
        rows=tuple(
            (
                manifest.collection,
                line.stage,
                line.model,
                count(line.items) if line.items else "-",
                _time(line.seconds),
                rate(line.computed, line.seconds) if line.computed else "-",
            )
            for manifest in manifests
            for line in _lines(manifest)
        ),
        numbers=_STAGE_COLUMNS[3:],
    )


def _details(manifests: Sequence[Manifest]) -> Sheet:
    return Sheet(
        title="Details",
        columns=("stage", "figures and remarks"),
        rows=tuple(row for manifest in manifests for row in _detail_rows(manifest)),
    )


def _detail_rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for line in _lines(manifest):
        if line.details:
            name = f"{manifest.collection} {line.stage} {line.model}"
            yield name, "; ".join(line.details)
    if told := probes_told(manifest):
        yield f"{manifest.collection} probes", told


def _lines(manifest: Manifest) -> Iterator[_StageLine]:
    yield from map(_dense, manifest.dense_run or ())
    for sparse in manifest.sparse_run or ():
        yield _sparse(sparse, manifest.chunk_count)
    if manifest.fusion_run is not None and manifest.fusion_run.queries:
        yield _fusion(manifest.fusion_run)
    if manifest.rerank_run is not None:
        yield _rerank(manifest.rerank_run, manifest.warnings)
    export = manifest.performance_baseline.get("export")
    if export is not None:
        yield _StageLine(stage="export", items=export.items, seconds=export.seconds)


def _dense(run: DenseRun) -> _StageLine:
    details = [
        f"{run.device}, {run.dtype}",
        f"batches of {_span(run.batch_sizes)}",
        f"{count(run.tokens)} tokens, padding {run.padding_ratio:.2f}x",
    ]
    if run.windows:
        long = counted(run.chunks_in_windows, "long chunk")
        details.append(f"{long} in {count(run.windows)} windows")
    if run.peak_bytes is not None:
        details.append(f"peak {gib(run.peak_bytes)}")
    reused = int(run.statistics.get("reused_chunks", 0))
    repeats = int(run.statistics.get("repeated_chunks", 0))
    if repeats:
        texts = counted(run.chunks - repeats, "text")
        repeating = counted(repeats, "chunk repeats", "chunks repeat")
        details.append(f"{texts}, {repeating} another")
    details += _reused(reused)
    return _StageLine(
        stage="dense",
        model=run.model,
        items=run.chunks,
        seconds=run.seconds,
        reused=reused,
        repeats=repeats,
        details=tuple(details),
    )


def _reused(chunks: int) -> tuple[str, ...]:
    return (f"{counted(chunks, 'chunk')} from an earlier run",) if chunks else ()


def _sparse(run: SparseInferenceRun, chunks: int) -> _StageLine:
    reused = int(run.statistics.get("reused_documents", 0))
    return _StageLine(
        stage="sparse",
        model=run.sparse_model,
        items=chunks,
        seconds=run.latency_ms / 1000,
        reused=reused,
        details=(
            f"coverage {run.coverage:.1%}",
            *_reused(reused),
            *_fallback(run.fallback_used, run.fallback_reason),
        ),
    )


def _fusion(run: FusionRun) -> _StageLine:
    return _StageLine(
        stage="fusion",
        model=run.method,
        items=run.queries,
        seconds=run.seconds,
        details=(" + ".join(run.legs),),
    )


def _rerank(run: RerankNotRun | RerankRan, warnings: Sequence[str]) -> _StageLine:
    if isinstance(run, RerankNotRun):
        if any(run.reason in warning for warning in warnings):
            return _StageLine(stage="rerank", details=("not run, see the warning",))
        reason = run.reason.rstrip(".")
        return _StageLine(stage="rerank", details=(f"not run: {reason}. {run.cure}",))
    return _StageLine(
        stage="rerank",
        model=run.model,
        items=run.queries,
        seconds=run.seconds,
        details=(
            f"{count(run.candidates)} candidates, top {run.top_k}",
            f"batches of {_span([header.batch_size for header in run.runs])}",
            *_latency(run.latency_ms_p50, run.latency_ms_p95),
            *_fallback(run.fallback_used, run.fallback_reason),
        ),
    )


def _fallback(used: bool, reason: str | None) -> tuple[str, ...]:
    return (f"fallback: {reason}",) if used else ()


def _latency(p50: float | None, p95: float | None) -> tuple[str, ...]:
    if p50 is None or p95 is None:
        return ()
    return (f"latency p50 {p50:.1f} ms, p95 {p95:.1f} ms",)


def _time(seconds: float) -> str:
    if seconds <= 0:
        return "-"
    if seconds >= 1:
        return duration(seconds)
    return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"


def _warnings(manifests: Sequence[Manifest]) -> Sheet:
    return Sheet(
        title="Warnings",
        columns=("collection", "warning"),
        rows=tuple(
            (manifest.collection, warning)
            for manifest in manifests
            for warning in manifest.warnings
        ),
    )


def _span(sizes: Sequence[int]) -> str:
    if not sizes:
        return "-"
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low} to {high}"
