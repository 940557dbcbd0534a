"""What each stage of one collection took, for runs to be compared by."""

from __future__ import annotations

from collections.abc import Mapping

from ..export.manifest_sections import StagePerformance
from ..stages.dense_records import DenseBlock
from ..stages.fusion import FusionResult
from ..stages.sparse import SparseResult
from .leased import DeviceLoans, highest
from .retrieval import RetrievalOutcome


def performance(
    dense: tuple[DenseBlock, ...],
    sparse: Mapping[str, SparseResult],
    retrieval: RetrievalOutcome,
    loans: DeviceLoans,
    *,
    export_seconds: float,
    chunks: int,
) -> dict[str, StagePerformance]:
    """Return seconds, rates and peaks by stage; a stage that did not run has none."""
    stages = {f"dense:{block.model.name}": _dense(block, loans) for block in dense}
    stages |= {f"sparse:{key}": _sparse(found, loans) for key, found in sparse.items()}
    stages |= _retrieval(retrieval, loans)
    stages["export"] = StagePerformance(seconds=export_seconds, items=chunks)
    return stages


def _dense(block: DenseBlock, loans: DeviceLoans) -> StagePerformance:
    peak = highest(loans.sections("dense", block.model.name)) or block.peak_bytes
    return StagePerformance(
        seconds=block.wall_seconds,
        items=block.computed_chunks,
        items_per_second=_rate(block.computed_chunks, block.wall_seconds),
        tokens_per_second=_rate(block.computed_tokens, block.wall_seconds),
        peak_bytes=peak,
        rss_bytes=block.peak_rss_bytes or None,
    )


def _sparse(found: SparseResult, loans: DeviceLoans) -> StagePerformance:
    seconds = found.run.latency_ms / 1000
    return StagePerformance(
        seconds=seconds,
        items=len(found.matrix),
        items_per_second=_rate(len(found.matrix), seconds),
        peak_bytes=highest(loans.sections("sparse", found.run.sparse_model)),
    )


def _retrieval(
    outcome: RetrievalOutcome, loans: DeviceLoans
) -> dict[str, StagePerformance]:
    """Return what fusion and rerank took; their items are queries."""
    stages = {
        name: StagePerformance(seconds=found.seconds, items=len(found.rankings))
        for name, found in (
            ("fusion:probes", outcome.probes),
            ("fusion:queries", outcome.queries),
        )
        if isinstance(found, FusionResult)
    }
    if (ran := outcome.reranked) is not None:
        seconds = sum(header.latency_ms for header in ran.headers) / 1000
        stages[f"rerank:{ran.model}"] = StagePerformance(
            seconds=seconds,
            items=len(ran.queries),
            items_per_second=_rate(len(ran.queries), seconds),
            peak_bytes=highest(loans.sections("rerank")),
        )
    return stages


def _rate(items: int, seconds: float) -> float | None:
    return items / seconds if seconds > 0 else None
