"""However a run is called and whatever befalls it, its series are few."""

from __future__ import annotations

import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from processor.ultimate_embedder.telemetry import events as ev
from processor.ultimate_embedder.telemetry.prometheus import PrometheusListener
from processor.ultimate_embedder.telemetry.trace_ids import trace_id_of

MOST_SERIES = 200
STAGES: tuple[ev.Stage, ...] = (
    *("chunk", "read", "dense", "sparse", "fusion", "rerank", "export"),
)


def series(listener: PrometheusListener) -> int:
    return sum(len(family.samples) for family in listener.registry.collect())


def everything(number: int) -> list[ev.Event]:
    """What can happen to the `number`th collection, with names of its own."""
    collection, model, device = f"c{number}", f"m{number}", f"cuda:{number}"
    told: list[ev.Event] = []
    for stage in STAGES:
        where = {"stage": stage, "collection": collection, "model": model}
        figures = {"items": 1, "seconds": 0.1, "device": device}
        loan = {"stage": stage, "model": model, "device": device}
        told += [
            ev.StageStarted(**where, total=9, done_before=1),
            ev.BatchFinished(
                **where, **figures, tokens=9, padded_tokens=9, truncated_tokens=9
            ),
            ev.FallbackUsed(
                stage=stage, collection=collection, reason=f"no {model} at all"
            ),
            ev.MemoryRetried(**loan, budget_tokens=1),
            ev.StageFinished(**where, **figures, candidates=5, empty=1),
        ]
    for stage in ("dense", "sparse", "rerank"):
        loan = {"stage": stage, "model": model, "device": device}
        sizes = {"cap_bytes": 9, "before_bytes": 1, "peak_bytes": 5, "after_bytes": 1}
        told.append(ev.LeaseChanged(action="released", **loan, **sizes))
    for stage in ("sparse", "rerank"):
        skipped = ev.StageSkipped(stage=stage, collection=collection, reason="none")
        told += [skipped, replace(skipped, layer="command line")]
    aside = {"file": f"{collection}.json", "index": number, "reason": model}
    told.append(ev.ItemQuarantined(collection=collection, **aside))
    told.append(ev.ItemQuarantined(collection=collection, **aside | {"index": None}))
    return told


def test_a_hundred_models_devices_and_reasons_make_no_more_series() -> None:
    listener = PrometheusListener()
    for number in range(100):
        for event in everything(number):
            if isinstance(event, ev.FallbackUsed | ev.MemoryRetried) and (
                event.stage not in ("dense", "sparse", "rerank")
            ):
                continue  # these stages alone have something lesser to do
            listener(event)
    listener(ev.RunFinished(run_id="r", exit_code=0, seconds=1))
    assert 150 < series(listener) <= MOST_SERIES


def test_what_is_not_told_apart_is_still_counted() -> None:
    listener = PrometheusListener()
    for number in range(50):
        for event in everything(number):
            listener(event)
    models = [
        sample.value
        for family in listener.registry.collect()
        for sample in family.samples
        if sample.name == "rag_tokens_total" and sample.labels["kind"] == "embedded"
    ]
    assert sum(models) == 50 * 9 * len(STAGES)
    read = {"model": "other", "kind": "padded"}
    rest = listener.registry.get_sample_value("rag_tokens_total", read)
    assert rest == (50 - len(models) + 1) * 9 * len(STAGES)


def test_a_stage_is_on_disabled_by_a_layer_or_could_not_run(tmp_path: Path) -> None:
    listener = PrometheusListener(tmp_path / "rag.prom")
    where = {"collection": "docs"}
    listener(ev.StageStarted(stage="dense", **where, model="m", total=1))
    listener(ev.StageSkipped(stage="sparse", **where, reason="disabled", layer=".env"))
    listener(ev.StageSkipped(stage="rerank", **where, reason="no query"))
    listener.close()
    found = {
        (sample.labels["stage"], sample.labels["state"], sample.labels["layer"])
        for family in text_string_to_metric_families(
            (tmp_path / "rag.prom").read_text()
        )
        for sample in family.samples
        if sample.name == "rag_stage_info"
    }
    assert found == {
        ("dense", "on", ""),
        ("sparse", "disabled", ".env"),
        ("rerank", "not_run", ""),
    }


@pytest.mark.parametrize("traced", [True, False])
def test_a_latency_names_the_trace_of_the_run_where_there_is_one(traced: bool) -> None:
    listener = PrometheusListener(exemplars=traced)
    where = {"stage": "dense", "collection": "docs", "model": "m"}
    listener(ev.RunStarted(run_id="run-7", collections=("docs",), settings={}))
    listener(ev.StageStarted(**where))
    listener(ev.BatchFinished(**where, items=1, seconds=0.03))
    port = listener.serve(0)
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(asked) as answer:  # noqa: S310  our own
        text = answer.read().decode()
    listener.close()
    exemplars = [
        sample.exemplar.labels
        for family in read_openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert exemplars == ([{"trace_id": trace_id_of("run-7")}] if traced else [])
