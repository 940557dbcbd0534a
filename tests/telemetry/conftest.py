"""One small run in events, half a second apart, from second 1000."""

from __future__ import annotations

import pytest

from processor.ultimate_embedder.telemetry import events as ev

MODEL = "all-miniLM-l6"


def run_events() -> list[ev.Event]:
    """Two batches of dense, one of sparse, one reranked query, one export."""
    at = iter(1000 + 0.5 * i for i in range(100))

    def stage(name: ev.Stage, model: str | None, batches: int, **finished: object):
        unit = "queries" if name == "rerank" else "chunks"
        yield ev.StageStarted(
            at=next(at), stage=name, collection="docs", model=model, total=8, unit=unit
        )
        for _ in range(batches):
            yield ev.BatchFinished(
                at=next(at),
                stage=name,
                collection="docs",
                model=model,
                items=4,
                seconds=0.02,
                tokens=100,
                padded_tokens=128,
                truncated_tokens=3,
            )
        yield ev.StageFinished(
            at=next(at),
            stage=name,
            collection="docs",
            model=model,
            items=4 * batches or 8,
            seconds=0.5,
            **finished,
        )

    return [
        ev.RunStarted(
            at=next(at),
            run_id="run-1",
            collections=("docs",),
            settings={"profile": "embedded (default)"},
        ),
        ev.CollectionStarted(at=next(at), collection="docs"),
        ev.ItemQuarantined(
            at=next(at),
            collection="docs",
            file="bad.json",
            index=3,
            reason="blank_text",
        ),
        *stage("dense", MODEL, 2, tokens=200, gpu_peak_bytes=5_000, device="cuda:0"),
        *stage("sparse", "qdrant-bm25", 1, fallback_reason="no weights"),
        ev.FallbackUsed(
            at=next(at), stage="sparse", collection="docs", reason="no weights"
        ),
        ev.MemoryRetried(
            at=next(at), stage="dense", model=MODEL, device="cuda:0", budget_tokens=512
        ),
        *stage("rerank", "ms-marco-minilm-l6", 1, candidates=100),
        *stage("export", None, 0),
        ev.CollectionFinished(at=next(at), collection="docs", chunks=8, seconds=9.0),
        ev.RunFinished(at=next(at), run_id="run-1", exit_code=0, seconds=10.0),
    ]


@pytest.fixture
def small_run() -> list[ev.Event]:
    """The events of a run that ends well."""
    return run_events()
