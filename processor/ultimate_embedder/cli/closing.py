"""The closing tables of a run, read from its manifests: an outcome in figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..disk_space import gib
from ..export.manifest import Manifest
from ..export.manifest_sections import DenseRun, FusionRun, RerankRan
from ..telemetry.progress import duration
from .output import Sheet, count, rate

_STAGE_COLUMNS = (
    "collection",
    "stage",
    "model",
    "items",
    "time",
    "per second",
    "latency p50/p95",
    "batch sizes",
    "peak",
    "remarks",
)
_STAGE_NUMBERS = ("items", "time", "per second", "latency p50/p95", "peak")


def closing_sheets(manifests: Sequence[Manifest]) -> list[Sheet]:
    """Return what was done, stage by stage, how well it can be searched, and what a
    person should know. Tables without rows are left out."""
    sheets = (_collections, _stages, _quality, _warnings)
    return [sheet for make in sheets if (sheet := make(manifests)).rows]


def _collections(manifests: Sequence[Manifest]) -> Sheet:
    return Sheet(
        title="Collections",
        columns=(
            "collection",
            "files",
            "read",
            "embedded",
            "set aside",
            "cut at the window",
            "tokens",
        ),
        rows=tuple(_collection_row(manifest) for manifest in manifests),
        numbers=(
            "files",
            "read",
            "embedded",
            "set aside",
            "cut at the window",
            "tokens",
        ),
    )


def _collection_row(manifest: Manifest) -> tuple[str, ...]:
    counts = manifest.conservation
    tokens = sum(subdir.tokens for subdir in manifest.source_subdirs.values())
    if counts is None:
        return (
            manifest.collection,
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
        count(counts.chunks_read),
        count(counts.embedded),
        count(len(counts.quarantined)),
        count(counts.truncated_chunks),
        count(tokens),
    )


def _stages(manifests: Sequence[Manifest]) -> Sheet:
    rows = [
        (manifest.collection, *row)
        for manifest in manifests
        for row in _stage_rows(manifest)
    ]
    return Sheet(
        title="Stages",
        columns=_STAGE_COLUMNS,
        rows=tuple(rows),
        numbers=_STAGE_NUMBERS,
    )


def _stage_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for dense in manifest.dense_run or ():
        yield _dense_row(dense)
    for sparse in manifest.sparse_run or ():
        remarks = [f"coverage {sparse.coverage:.1%}"]
        if sparse.fallback_used:
            remarks.append(f"fallback: {sparse.fallback_reason}")
        seconds = sparse.latency_ms / 1000
        yield _row(
            "sparse",
            sparse.sparse_model,
            items=manifest.chunk_count,
            seconds=seconds,
            remarks="; ".join(remarks),
        )
    if manifest.fusion_run is not None:
        yield _fusion_row(manifest.fusion_run)
    yield from _rerank_rows(manifest)
    export = manifest.performance_baseline.get("export")
    if export is not None:
        yield _row("export", "-", items=export.items, seconds=export.seconds)


def _dense_row(run: DenseRun) -> tuple[str, ...]:
    return _row(
        "dense",
        run.model,
        items=run.chunks,
        seconds=run.seconds,
        batches=_span(run.batch_sizes),
        peak=gib(run.peak_bytes) if run.peak_bytes is not None else "-",
        remarks=f"{run.device}, {run.dtype}, padding {run.padding_ratio:.2f}x",
    )


def _fusion_row(run: FusionRun) -> tuple[str, ...]:
    return _row(
        "fusion",
        run.method,
        items=run.queries,
        seconds=run.seconds,
        latency=_latency(run.latency_ms_p50, run.latency_ms_p95),
        remarks=" + ".join(run.legs),
    )


def _rerank_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    run = manifest.rerank_run
    if run is None:
        return
    if not isinstance(run, RerankRan):
        reason = run.reason.rstrip(".")
        yield _row("rerank", "-", remarks=f"not run: {reason}. {run.cure}")
        return
    remarks = [f"{run.candidates} candidates, top {run.top_k}"]
    if run.fallback_used:
        remarks.append(f"fallback: {run.fallback_reason}")
    yield _row(
        "rerank",
        run.model,
        items=run.queries,
        seconds=run.seconds,
        latency=_latency(run.latency_ms_p50, run.latency_ms_p95),
        batches=_span([header.batch_size for header in run.runs]),
        remarks="; ".join(remarks),
    )


def _row(
    stage: str,
    model: str,
    *,
    items: int = 0,
    seconds: float = 0.0,
    latency: str = "-",
    batches: str = "-",
    peak: str = "-",
    remarks: str = "",
) -> tuple[str, ...]:
    return (
        stage,
        model,
        count(items) if items else "-",
        _time(seconds),
        rate(items, seconds),
        latency,
        batches,
        peak,
        remarks,
    )


def _time(seconds: float) -> str:
    if seconds <= 0:
        return "-"
    return duration(seconds) if seconds >= 1 else f"{seconds * 1000:.0f} ms"


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


def _quality(manifests: Sequence[Manifest]) -> Sheet:
    found = [
        (manifest, stage, measures)
        for manifest in manifests
        for stage, measures in _measured(manifest)
    ]
    names = tuple(dict.fromkeys(name for _, _, measures in found for name in measures))
    rows = tuple(
        (
            manifest.collection,
            stage,
            *(f"{measures[name]:.3f}" if name in measures else "-" for name in names),
        )
        for manifest, stage, measures in found
    )
    return Sheet(
        title="Search quality, by questions whose answer is known",
        columns=("collection", "stage", *names),
        rows=rows,
        numbers=names,
    )


def _measured(manifest: Manifest) -> Iterator[tuple[str, dict[str, float]]]:
    if manifest.fusion_run is not None:
        yield from manifest.fusion_run.quality.items()
    if isinstance(manifest.rerank_run, RerankRan):
        yield from manifest.rerank_run.quality.items()


def _latency(p50: float | None, p95: float | None) -> str:
    if p50 is None or p95 is None:
        return "-"
    return f"{p50:.1f} / {p95:.1f} ms"


def _span(sizes: Sequence[int]) -> str:
    if not sizes:
        return "-"
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low} to {high}"
