"""Dashboards and rules ask for nothing that a run does not serve."""

from __future__ import annotations

import re
import urllib.request
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from deploy_parts import (
    Expression,
    dashboard_expressions,
    foreign_words,
    grouped_labels,
    parts_on_a_card,
    rule_expressions,
    selectors,
    watched_config,
)
from prometheus_client.parser import text_string_to_metric_families

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.listeners import listening
from processor.ultimate_embedder.config import GIB
from processor.ultimate_embedder.errors import MemoryCapExceeded
from processor.ultimate_embedder.settings import ReportingConfig
from processor.ultimate_embedder.telemetry import names
from processor.ultimate_embedder.telemetry.prometheus import PrometheusListener

# What Prometheus itself adds to what it scrapes.
ITS_LABELS = {"job", "instance"}
ITS_METRICS = {"up"}
EXPRESSIONS = [*dashboard_expressions(), *rule_expressions()]

Labels = dict[str, set[str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Labels]:
    """What a run serves over HTTP: the values of each label of each sample name.

    The run takes up what one that was stopped left, computes on a pretended GPU, sets
    an entry aside, cuts a text and has no time to rerank.
    """
    folder = tmp_path_factory.mktemp("served")
    config = replace(watched_config(folder), rerank_timeout_seconds=1e-9)
    with (
        pytest.raises(MemoryCapExceeded),
        listening(ReportingConfig(log_level="error"), "json") as emit,
    ):
        small = parts_on_a_card(folder, cap_bytes=4 * GIB)
        BatchRunner(config, emit, "stopped", small).run()
    listener = PrometheusListener()
    port = listener.serve(0)
    try:
        outcome = BatchRunner(config, listener, "run", parts_on_a_card(folder)).run()
        assert outcome.exit_code == 0, outcome.collections[0].error
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        listener.close()
    found: dict[str, Labels] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, defaultdict(set))
            for label, value in sample.labels.items():
                labels[label].add(value)
    return found


def test_every_metric_of_the_contract_is_served(served: dict[str, Labels]) -> None:
    histograms = {f"{name}_bucket" for name in names.LATENCY_METRICS.values()}
    others = set(names.METRIC_LABELS) - set(names.LATENCY_METRICS.values())
    assert histograms | others <= set(served)


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda e: e.place)
def test_an_expression_asks_for_metrics_labels_and_values_that_are_served(
    expression: Expression, served: dict[str, Labels]
) -> None:
    asked = selectors(expression.promql)
    assert asked
    assert foreign_words(expression.promql) == set()
    known = set(ITS_LABELS)
    for selector in asked:
        if selector.metric in ITS_METRICS:
            continue
        labels = served[selector.metric]
        known |= set(labels)
        for label, operator, value in selector.matchers:
            if label in ITS_LABELS:
                continue
            assert label in labels, selector.metric
            assert operator in ("=", "=~")
            assert set(value.split("|")) <= labels[label], (selector.metric, label)
    assert grouped_labels(expression.promql) <= known


def test_every_metric_of_the_contract_is_on_a_dashboard() -> None:
    shown = {
        selector.metric
        for expression in dashboard_expressions()
        for selector in selectors(expression.promql)
    }
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} | shown
    assert set(names.METRIC_LABELS) <= bare


def test_a_name_that_nobody_serves_is_noticed() -> None:
    wrong = 'sum by (stage) (rag_chunk_total{stage="dense"}) / node_load1'
    assert [found.metric for found in selectors(wrong)] == ["rag_chunk_total"]
    assert foreign_words(wrong) == {"node_load1"}


def test_a_chunk_without_a_word_lowers_coverage_as_in_the_manifest(
    tmp_path: Path,
) -> None:
    listener = PrometheusListener()
    config = watched_config(tmp_path)
    runner = BatchRunner(config, listener, "run", parts_on_a_card(tmp_path))
    (collection,) = runner.run().collections
    manifest = collection.manifest
    assert manifest is not None
    assert manifest.sparse_run is not None

    def chunks(outcome: str) -> float | None:
        return listener.registry.get_sample_value(
            names.CHUNKS_TOTAL, {"stage": "sparse", "outcome": outcome}
        )

    done, empty = chunks("done"), chunks("empty")
    assert (done, empty) == (manifest.chunk_count, 1)
    assert done is not None
    assert manifest.sparse_run[0].coverage == pytest.approx(1 - 1 / done)
