"""Manifests to make pages of, and what a test reads out of a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    Artifact,
    ConservationCounts,
    DenseRun,
    Environment,
    FeatureToggles,
    FusionRun,
    LeaseEvent,
    QuarantinedEntry,
    RerankRan,
    SettingProvenance,
    StagePerformance,
    SubdirCounts,
    TelemetrySection,
    TimelinePass,
    TokenLengths,
)
from processor.ultimate_embedder.records import (
    CrossEncoderRerankRun,
    SparseInferenceRun,
)
from processor.ultimate_embedder.retrieval.quality import quality_card

GIB = 2**30
VOID = {"meta", "link", "rect", "line", "circle", "path", "polyline", "br"}
SECRET = "sesame-of-the-document"  # noqa: S105 - stands for text


def full_manifest(**changes: Any) -> Manifest:
    """Return a manifest in which every section of a page has something to show."""
    found: dict[str, Any] = {
        "manifest_sha256": "ab" * 32,
        "generated_at": "2026-01-02T03:04:05+00:00",
        "collection": "docs",
        "chunk_count": 1873,
        "run_id": "20260102T030405Z-abcdef",
        "feature_toggles": FeatureToggles(
            enable_rerank=True,
            enable_sparse=True,
            provenance=(
                setting("workers", "3", "--workers", "command line"),
                setting("seed", "0", "built in", "default"),
            ),
        ),
        "dense_run": (dense_run(),),
        "sparse_run": (
            SparseInferenceRun(
                run_id="r", latency_ms=61.0, sparse_model="bm25", coverage=0.973
            ),
        ),
        "fusion_run": FusionRun(method="sum", quality_card=card()),
        "rerank_run": reranked(),
        "source_subdirs": {
            "guide": SubdirCounts(chunks=1201, tokens=90_011),
            "api": SubdirCounts(chunks=672, tokens=41_017),
        },
        "conservation": ConservationCounts(
            files_read=71,
            chunks_read=1876,
            embedded=1873,
            quarantined=tuple(
                QuarantinedEntry(
                    file=f"page{n}.json", index=n or None, reason="no_text"
                )
                for n in range(3)
            ),
        ),
        "performance_baseline": {
            "dense:m": StagePerformance(
                seconds=213.7, items=1873, rss_bytes=int(1.31 * GIB)
            ),
            "export": StagePerformance(seconds=0.617, items=1873),
        },
        "telemetry": TelemetrySection(
            timeline=(
                TimelinePass(
                    stage="dense",
                    model="m",
                    started=1.0,
                    width=64.0,
                    items=(512, 640, 611, 110),
                    tokens=(1, 2, 3, 4),
                ),
            )
        ),
        "environment": Environment(processor="a processor", versions={"numpy": "2.4"}),
        "artifacts": (Artifact(path="a", bytes=7_340_033, sha256="0" * 64),),
        "warnings": ("Set aside: 3. The manifest lists what and why.",),
    }
    return Manifest(**(found | changes))


def setting(key: str, value: str, source: str, layer: str) -> SettingProvenance:
    return SettingProvenance(key=key, value=value, source=source, layer=layer)


def dense_run(**changes: Any) -> DenseRun:
    found: dict[str, Any] = {
        "model": "m",
        "hf_model_id": "org/m",
        "revision": "abc",
        "dimension": 8,
        "dtype": "float16",
        "max_tokens": 256,
        "windows": 29,
        "chunks_in_windows": 13,
        "chunks": 1873,
        "tokens": 131_028,
        "token_lengths": TokenLengths(
            width=16,
            counts=(400, 900, 400, 150, 10) + (1,) * 13,
            median=47,
            longest=283,
        ),
        "padding_ratio": 1.17,
        "seconds": 213.7,
        "chunks_per_second": 8.76,
        "device": "cuda:0",
        "batch_sizes": (16, 64),
        "oom_retries": 2,
        "lease_events": (
            LeaseEvent(
                model="m",
                devices=("cuda:0",),
                acquired_at="2026-01-02T03:00:00+00:00",
                released_at="2026-01-02T03:03:33+00:00",
                cap_bytes=12 * GIB,
                before_bytes={"cuda:0": 0},
                peak_bytes={"cuda:0": int(9.37 * GIB)},
                after_bytes={"cuda:0": 0},
            ),
        ),
        "statistics": {"batches": 37, "truncated_chunks": 0, "truncated_tokens": 0},
    }
    return DenseRun(**(found | changes))


def reranked() -> RerankRan:
    return RerankRan(
        model="cross",
        queries=31,
        candidates=1550,
        top_k=20,
        latency_ms_p50=41.3,
        latency_ms_p95=77.9,
        seconds=1.49,
        runs=(
            CrossEncoderRerankRun(
                run_id="r",
                latency_ms=41.0,
                query=SECRET,
                candidate_ids=["c"],
                scores=[1.0],
                batch_size=4,
            ),
        ),
    )


def card() -> Any:
    ranks = {
        "m": {f"q{n}": n % 7 + 1 for n in range(40)},
        "fused": {f"q{n}": n % 5 + 1 for n in range(40)},
    }
    return quality_card(
        ranks,
        depths={"m": 100, "fused": 100},
        kinds={f"q{n}": "heading" for n in range(40)},
        pairs=[("fused", "m")],
    )


class Page(HTMLParser):
    """A page as its elements: complains of what is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[tuple[str, str]] = []  # innermost tag, text
        self.feed(page)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID, f"<{tag}/>"
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            inner = self.open[-1] if self.open else ""
            self.words.append((inner, data))

    @property
    def text(self) -> str:
        """All words of the page."""
        return re.sub(r"\s+", " ", " ".join(words for _, words in self.words))

    def count(self, tag: str) -> int:
        """How many elements of a kind there are."""
        return sum(name == tag for name, _ in self.elements)

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of the elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]
