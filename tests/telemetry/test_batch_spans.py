"""Spans of batches: below their stage, ever fewer of many, with their figures."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from processor.ultimate_embedder.telemetry import events as ev
from processor.ultimate_embedder.telemetry.otel import OtelListener
from processor.ultimate_embedder.telemetry.thinning import A_STEP, Thinning

STAGE = {"stage": "dense", "collection": "docs", "model": "m"}


def spans_of(events: list[ev.Event]) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    listener = OtelListener({"memory": exporter})
    for event in events:
        listener(event)
    listener.close()
    return list(exporter.get_finished_spans())


def batches(number: int) -> list[ev.Event]:
    """A dense pass in batches of half a second, from second 100."""
    made = [
        ev.BatchFinished(
            at=100.5 + 0.5 * i,
            **STAGE,
            items=3,
            seconds=0.5,
            tokens=30,
            padded_tokens=40,
            truncated_tokens=5,
            device="cuda:1",
            batch_size=4,
        )
        for i in range(number)
    ]
    end = made[-1].at
    finished = ev.StageFinished(at=end, **STAGE, items=3 * number, seconds=1)
    return [ev.StageStarted(at=100, **STAGE, total=3), *made, finished]


def test_a_batch_is_below_its_stage_and_lasts_as_long_as_it_took() -> None:
    first, second, stage = spans_of(batches(2))
    assert (first.name, stage.name) == ("rag.dense.batch", "rag.dense")
    for span in (first, second):
        assert span.parent is not None
        assert stage.context is not None
        assert span.parent.span_id == stage.context.span_id
    assert (first.start_time, first.end_time) == (100_000_000_000, 100_500_000_000)
    assert dict(second.attributes or {}) == {
        "rag.stage": "dense",
        "rag.collection": "docs",
        "rag.model": "m",
        "rag.device": "cuda:1",
        "rag.items": 3,
        "rag.batch_size": 4,
        "rag.tokens": 30,
        "rag.padded_tokens": 40,
        "rag.truncated_tokens": 5,
        "rag.batch.number": 2,
        "rag.batch.stands_for": 1,
    }


def test_of_many_batches_some_have_a_span_and_the_stage_counts_them_all() -> None:
    *shown, stage = spans_of(batches(1000))
    assert A_STEP < len(shown) < 200
    figures = stage.attributes or {}
    assert figures["rag.batches"] == 1000
    assert figures["rag.batch_size"] == 4


@given(st.integers(min_value=0, max_value=100_000))
def test_what_is_taken_stands_for_nearly_all_and_grows_with_the_logarithm(
    number: int,
) -> None:
    thinning = Thinning()
    taken = [thinning.take() for _ in range(number)]
    assert all(taken[:A_STEP])
    shown = [one for one in taken if one]
    assert len(shown) <= A_STEP * math.log2(1 + number / A_STEP) + 1
    assert number - sum(shown) < max(shown, default=1) * 2
    assert thinning.seen == number


def test_a_stage_that_ends_before_its_card_is_given_back_has_the_peak() -> None:
    loan = {"stage": "rerank", "model": "r", "device": "cuda:0", "cap_bytes": 12}
    stage = {"stage": "rerank", "collection": "docs", "model": "r"}
    low = {"before_bytes": 0, "peak_bytes": 0, "after_bytes": 0}
    high = {"before_bytes": 0, "peak_bytes": 9, "after_bytes": 0}
    told = [
        ev.RunStarted(at=0, run_id="x", collections=("docs",), settings={}),
        ev.LeaseChanged(at=1, action="acquired", **loan, **low),
        ev.StageStarted(at=2, **stage),
        ev.StageFinished(at=3, **stage, items=1, seconds=1),
        ev.LeaseChanged(at=4, action="released", **loan, **high),
        ev.RunFinished(at=5, run_id="x", exit_code=0, seconds=5),
    ]
    rerank, run = spans_of(told)
    assert (rerank.attributes or {})["rag.gpu_peak_bytes"] == 9
    assert rerank.end_time == 3_000_000_000
    assert [event.name for event in run.events] == ["rag.lease", "rag.lease"]


def test_a_stage_whose_card_is_never_given_back_still_ends_well() -> None:
    loan = {"stage": "rerank", "model": "r", "device": "cuda:0", "cap_bytes": 12}
    low = {"before_bytes": 0, "peak_bytes": 0, "after_bytes": 0}
    stage = {"stage": "rerank", "collection": "docs", "model": "r"}
    (span,) = spans_of(
        [
            ev.LeaseChanged(at=1, action="acquired", **loan, **low),
            ev.StageStarted(at=2, **stage),
            ev.StageFinished(at=3, **stage, items=1, seconds=1),
        ]
    )
    assert span.status.is_unset
    assert span.end_time == 3_000_000_000
