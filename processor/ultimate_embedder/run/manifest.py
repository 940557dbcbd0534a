"""What a run knows about one collection, put into the sections of the manifest."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from ..config import LongTexts, PipelineConfig, Provenance, RerankingConfig
from ..encoders.weight_difference import difference_sha256
from ..encoders.windows import WINDOW_POOLING
from ..export.manifest import Manifest
from ..export.manifest_sections import (
    ConservationCounts,
    DenseRun,
    Environment,
    FeatureToggles,
    FusionRun,
    QuarantinedEntry,
    RerankNotRun,
    RerankRan,
    RerankSection,
    SettingProvenance,
    SubdirCounts,
    TelemetrySection,
)
from ..hardware import this_machine
from ..intake.measure import MeasuredCollection
from ..libraries import OF_A_BUNDLE, installed_versions
from ..records import SparseInferenceRun
from ..retrieval.quality import QualityCard
from ..stages.dense_records import DenseBlock
from ..stages.sparse import SparseResult
from .leased import DeviceLoans, highest
from .performance import performance
from .retrieval import RerankImpossible, RetrievalOutcome
from .token_lengths import token_lengths
from .up_to_date import run_fingerprint

TRUNCATED_CHUNKS_LISTED = 1000
"""Most chunks named one by one as cut; their count is always complete."""

_TOGGLES = ("enable_rerank", "enable_sparse", "sparse_models")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionResult:
    """Everything the stages returned for one collection."""

    collection: MeasuredCollection
    dense: tuple[DenseBlock, ...]
    sparse: Mapping[str, SparseResult]
    retrieval: RetrievalOutcome
    export_seconds: float
    loans: DeviceLoans
    warnings: tuple[str, ...]


def build_manifest(
    result: CollectionResult,
    config: PipelineConfig,
    *,
    run_id: str,
    run_facts: dict[str, str],
    generated_at: datetime,
    telemetry: TelemetrySection | None = None,
) -> Manifest:
    """Return the manifest; the exporter fills in artifacts, sums and the baseline."""
    store = result.collection.store
    return Manifest(
        generated_at=generated_at.isoformat(),
        collection=store.collection,
        chunk_count=len(store),
        run_id=run_id,
        run_fingerprint=run_fingerprint(run_facts),
        run_facts=run_facts,
        feature_toggles=_toggles(config),
        dense_run=tuple(
            _dense_run(block, result, config.long_texts)
            for block in result.dense
            if block.stored
        ),
        sparse_run=_sparse_runs(result, config) or None,
        fusion_run=_fusion_run(result.retrieval),
        rerank_run=_rerank_run(result, config),
        source_subdirs=_subdirs(result.collection),
        conservation=_conservation(result),
        telemetry=telemetry or TelemetrySection(),
        performance_baseline=performance(
            result.dense,
            result.sparse,
            result.retrieval,
            result.loans,
            export_seconds=result.export_seconds,
            chunks=len(store),
        ),
        environment=_environment(result),
        warnings=result.warnings,
    )


def _toggles(config: PipelineConfig) -> FeatureToggles:
    return FeatureToggles(
        enable_rerank=config.enable_rerank,
        enable_sparse=config.enable_sparse,
        sparse_models=tuple(model.name for model in config.active_sparse),
        sources={
            entry.key: entry.layer
            for entry in config.provenance
            if entry.key in _TOGGLES
        },
        provenance=tuple(_provenance(entry) for entry in config.provenance),
    )


def _provenance(entry: Provenance) -> SettingProvenance:
    return SettingProvenance(
        key=entry.key, value=entry.value, source=entry.source, layer=entry.layer
    )


def _dense_run(
    block: DenseBlock, result: CollectionResult, long_texts: LongTexts
) -> DenseRun:
    seconds = block.wall_seconds
    loans = result.loans.sections("dense", block.model.name)
    roster = [model.config.name for model in result.collection.models]
    return DenseRun(
        model=block.model.name,
        turn=roster.index(block.model.name) + 1,
        hf_model_id=block.model.hf_model_id,
        revision=block.location.revision,
        dimension=block.model.vector_dim,
        dtype=block.dtype,
        max_tokens=block.model.max_tokens,
        query_prefix=block.model.query_prefix,
        document_prefix=block.model.document_prefix,
        long_texts=long_texts,
        windows=block.windows,
        chunks_in_windows=block.chunks_in_windows,
        window_pooling=WINDOW_POOLING if block.windows else None,
        chunks=block.chunks,
        tokens=block.tokens,
        token_lengths=token_lengths(
            result.collection.model(block.model.name).tokens.full_lengths,
            window=block.model.max_tokens,
        ),
        padding_ratio=block.padding_ratio,
        seconds=seconds,
        chunks_per_second=block.computed_chunks / seconds if seconds > 0 else 0.0,
        device=",".join(block.devices),
        batch_sizes=block.batch_sizes,
        lease_events=loans,
        peak_bytes=highest(loans) or block.peak_bytes,
        oom_retries=block.oom_retries,
        statistics={
            "pooling": block.model.pooling,
            "pinned": block.location.pinned,
            "remote_code": block.model.trust_remote_code,
            "batches": block.batches,
            "reused_batches": block.reused_batches,
            "reused_chunks": block.reused_chunks,
            "repeated_chunks": block.chunks - block.texts,
            "compute_seconds": block.compute_seconds,
            "truncated_chunks": block.truncated_chunks,
            "truncated_tokens": block.truncated_tokens,
            "calibration": asdict(block.calibration) if block.calibration else None,
            "truncated": _truncated(block.model.name, result.collection),
        },
    )


def _truncated(model: str, collection: MeasuredCollection) -> list[dict[str, Any]]:
    """Name the chunks that lost tokens, those that lost most first."""
    lost = collection.model(model).tokens.truncated
    rows = np.flatnonzero(lost)
    worst = rows[np.lexsort((rows, -lost[rows]))][:TRUNCATED_CHUNKS_LISTED]
    return [
        {
            "chunk_id": collection.store.chunk(int(row)).chunk_id,
            "tokens_lost": int(lost[row]),
        }
        for row in worst
    ]


def _fusion_run(outcome: RetrievalOutcome) -> FusionRun:
    """Say how rankings are joined, with what was measured where there were queries."""
    fusion = outcome.fusion
    said = FusionRun(
        method=fusion.method,
        parameters={"expression": str(fusion), "k": fusion.k},
        legs=outcome.fused_legs,
        quality_card=outcome.card,
    )
    found = outcome.probes or outcome.queries
    if found is None:
        return said
    return said.model_copy(
        update={
            "queries": len(found.rankings),
            "query_source": "probes" if found is outcome.probes else "queries",
            "candidates": sum(len(ranking.fused) for ranking in found.rankings),
            "seconds": found.seconds,
            "quality": _quality(outcome.card),
            "statistics": {
                "ranked_legs": found.ranked_legs,
                "depth": found.depth,
                "queries_from_user": len(outcome.queries.rankings)
                if outcome.queries
                else 0,
            },
        }
    )


def _quality(card: QualityCard) -> dict[str, dict[str, float]]:
    names = {
        "nDCG@10": "ndcg_at_10",
        "MRR@10": "mrr_at_10",
        "Recall@10": "recall_at_10",
        "Recall@100": "recall_at_100",
    }
    return {
        stage.stage: {
            shown: estimate.value
            for shown, field in names.items()
            if (estimate := getattr(stage, field)) is not None
        }
        for stage in card.stages
    }


def _sparse_runs(
    result: CollectionResult, config: PipelineConfig
) -> tuple[SparseInferenceRun, ...]:
    """Return the records of the sparse passes, those on a GPU with their loans.

    A pass for attention alone stands in no dense section: its loans stand here.
    """
    alone = {block.model.name for block in result.dense if not block.stored}
    passes = {
        model.name: model.dense_key
        for model in config.active_sparse
        if model.dense_key in alone
    }
    runs = []
    for key, sparse in result.sparse.items():
        loans = result.loans.sections("sparse", key)
        if key in passes:
            loans += result.loans.sections("dense", passes[key])
        told = {
            "lease_events": [event.model_dump() for event in loans],
            "peak_bytes": highest(loans),
        }
        statistics = {**sparse.run.statistics, **(told if loans else {})}
        runs.append(sparse.run.model_copy(update={"statistics": statistics}))
    return tuple(runs)


def _rerank_run(
    result: CollectionResult, config: PipelineConfig
) -> RerankSection | None:
    outcome = result.retrieval
    found = outcome.rerank
    if found is None:
        return None
    if isinstance(found, RerankImpossible):
        return RerankNotRun(reason=found.reason, cure=found.cure)
    # A smaller model's too, where it stepped in.
    loans = result.loans.sections("rerank")
    return RerankRan(
        model=found.model,
        queries=len(found.queries),
        candidates=found.candidates,
        top_k=config.rerank.top_k if config.rerank else 0,
        latency_ms_p50=found.latency_ms(50),
        latency_ms_p95=found.latency_ms(95),
        seconds=sum(header.latency_ms for header in found.headers) / 1000,
        device=found.device,
        fallback_used=found.fallback_reason is not None,
        fallback_reason=found.fallback_reason,
        runs=found.headers,
        lease_events=loans,
        peak_bytes=highest(loans),
        statistics={
            "hf_model_id": found.config.hf_model_id,
            "not_reranked": found.not_reranked,
            "queries_by_model": found.queries_by_model,
            "oom_retries": found.oom_retries,
            "calibration": asdict(found.calibration) if found.calibration else None,
            **_weights(found.config),
            "blend": _printed(found.config.blend),
            "blends": {model: _printed(one) for model, one in found.blends.items()},
            "candidates_per_query": config.rerank.candidates if config.rerank else 0,
            "query_source": "queries" if outcome.asked else "probes",
        },
    )


def _weights(config: RerankingConfig) -> dict[str, Any]:
    """Return which weights scored, and how much of a pair they saw."""
    name = config.difference
    return {
        "max_tokens": config.max_tokens,
        "revision": config.revision,
        "difference": name,
        "difference_sha256": difference_sha256(name) if name else None,
    }


def _printed(value: object | None) -> str | None:
    return None if value is None else str(value)


def _subdirs(collection: MeasuredCollection) -> dict[str, SubdirCounts]:
    """Count chunks, and tokens as the primary model sees them."""
    lengths = collection.models[0].tokens.lengths
    chunks: dict[str, int] = defaultdict(int)
    tokens: dict[str, int] = defaultdict(int)
    for row, subdir in enumerate(collection.store.source_subdirs()):
        chunks[subdir] += 1
        tokens[subdir] += int(lengths[row])
    return {
        name: SubdirCounts(chunks=chunks[name], tokens=tokens[name]) for name in chunks
    }


def _conservation(result: CollectionResult) -> ConservationCounts:
    kept = result.collection.store.conservation
    primary = result.collection.models[0].tokens
    return ConservationCounts(
        files_read=kept.files_read,
        chunks_read=kept.chunks_read,
        embedded=kept.embedded,
        quarantined=tuple(
            QuarantinedEntry(**asdict(entry)) for entry in kept.quarantined
        ),
        truncated_chunks=int(np.count_nonzero(primary.truncated)),
        truncated_tokens=int(primary.truncated.sum()),
    )


def _environment(result: CollectionResult) -> Environment:
    machine = this_machine()
    return Environment(
        versions={
            "python": platform.python_version(),
            **installed_versions(OF_A_BUNDLE),
        },
        processor=machine.processor,
        instruction_set=" ".join(machine.instruction_sets),
        dtype=",".join(sorted({block.dtype for block in result.dense})),
        threads=1,
        gpus=tuple(
            {"device": device, "name": name}
            for device, name in sorted(result.loans.cards.items())
        ),
        platform=platform.platform(),
    )
