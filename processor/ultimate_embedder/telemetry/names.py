"""The names telemetry goes by, of spans, of their attributes and of metrics.

Dashboards, alert rules and documentation refer to these; a name is never reused for
something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .events import Stage

SERVICE_NAME: Final = "ultimate-embedder"

SPAN_RUN: Final = "rag.run"
STAGE_SPANS: Final[Mapping[Stage, str]] = MappingProxyType(
    {
        "chunk": "rag.chunk",
        "read": "rag.chunk",  # reading chunk files is the embed job's part of chunking
        "dense": "rag.dense",
        "sparse": "rag.sparse",
        "fusion": "rag.fusion",
        "rerank": "rag.rerank",
        "export": "rag.export",
    }
)

STAGE_ITEMS: Final[Mapping[Stage, str]] = MappingProxyType(
    {
        "chunk": "chunks",
        "read": "chunks",
        "dense": "chunks",
        "sparse": "chunks",
        "fusion": "queries",
        "rerank": "queries",
        "export": "chunks",
    }
)
"""What a finished stage counts; progress on the way may count files instead."""

BATCH_SPAN_SUFFIX: Final = ".batch"
"""`rag.dense.batch`: one of the batches below `rag.dense`; not every one has a span."""

# No `gen_ai.*` attribute of OpenTelemetry's conventions is stable (November 2026), so
# none is used: a name here is never taken back.
ATTR_RUN_ID: Final = "rag.run_id"
ATTR_EXIT_CODE: Final = "rag.exit_code"
ATTR_STAGE: Final = "rag.stage"
ATTR_COLLECTION: Final = "rag.collection"
ATTR_COLLECTIONS: Final = "rag.collections"
ATTR_MODEL: Final = "rag.model"
ATTR_DEVICE: Final = "rag.device"
ATTR_ITEMS: Final = "rag.items"
ATTR_UNIT: Final = "rag.unit"
ATTR_TOKENS: Final = "rag.tokens"
ATTR_PADDED_TOKENS: Final = "rag.padded_tokens"
ATTR_TRUNCATED_TOKENS: Final = "rag.truncated_tokens"
ATTR_BATCHES: Final = "rag.batches"
ATTR_BATCH_SIZE: Final = "rag.batch_size"
ATTR_BATCH_NUMBER: Final = "rag.batch.number"
ATTR_BATCH_STANDS_FOR: Final = "rag.batch.stands_for"
ATTR_CANDIDATES: Final = "rag.candidates"
ATTR_RESUMED: Final = "rag.resumed_items"
ATTR_GPU_PEAK_BYTES: Final = "rag.gpu_peak_bytes"
ATTR_FALLBACK: Final = "rag.fallback_used"
ATTR_FALLBACK_REASON: Final = "rag.fallback_reason"
ATTR_REASON: Final = "rag.reason"
ATTR_LAYER: Final = "rag.layer"
ATTR_BUDGET_TOKENS: Final = "rag.budget_tokens"
ATTR_LEASE_ACTION: Final = "rag.lease.action"
ATTR_CAP_BYTES: Final = "rag.gpu_cap_bytes"
ATTR_BEFORE_BYTES: Final = "rag.gpu_before_bytes"
ATTR_AFTER_BYTES: Final = "rag.gpu_after_bytes"

SPAN_EVENT_SKIPPED: Final = "rag.stage_skipped"
SPAN_EVENT_FALLBACK: Final = "rag.fallback"
SPAN_EVENT_MEMORY_RETRIED: Final = "rag.memory_retried"
SPAN_EVENT_LEASE: Final = "rag.lease"

LATENCY_METRICS: Final[Mapping[Stage, str]] = MappingProxyType(
    {
        "dense": "rag_dense_latency_seconds",
        "sparse": "rag_sparse_latency_seconds",
        "rerank": "rag_rerank_latency_seconds",
        "export": "rag_export_latency_seconds",
    }
)
GPU_PEAK_BYTES: Final = "rag_gpu_peak_bytes"
GPU_CAP_BYTES: Final = "rag_gpu_cap_bytes"
CANDIDATE_COUNT: Final = "rag_candidate_count"
CHUNKS_TOTAL: Final = "rag_chunks_total"
FILES_QUARANTINED_TOTAL: Final = "rag_files_quarantined_total"
TOKENS_TOTAL: Final = "rag_tokens_total"
FALLBACK_TOTAL: Final = "rag_fallback_total"
OOM_RETRIES_TOTAL: Final = "rag_oom_retries_total"
LAST_SUCCESS: Final = "rag_last_success_timestamp_seconds"
STAGE_INFO: Final = "rag_stage_info"

METRIC_LABELS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(LATENCY_METRICS.values(), ()),
        GPU_PEAK_BYTES: ("stage", "device"),
        GPU_CAP_BYTES: ("device",),
        CANDIDATE_COUNT: ("stage",),
        CHUNKS_TOTAL: ("stage", "outcome"),
        FILES_QUARANTINED_TOTAL: ("stage",),
        TOKENS_TOTAL: ("model", "kind"),
        FALLBACK_TOTAL: ("stage", "reason"),
        OOM_RETRIES_TOTAL: ("stage",),
        LAST_SUCCESS: (),
        STAGE_INFO: ("stage", "state", "layer"),
    }
)
