"""Metrics by content, parsed back from the textfile."""

from __future__ import annotations

import logging
import resource
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.telemetry import events as ev
from processor.ultimate_embedder.telemetry import names
from processor.ultimate_embedder.telemetry.prometheus import PrometheusListener
from processor.ultimate_embedder.telemetry.summary import MetricsSummary

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(path: Path) -> Samples:
    """Every sample of a textfile by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return (name, frozenset(labels.items()))


@pytest.fixture
def written(small_run, tmp_path: Path) -> Path:
    """The textfile of the small run."""
    path = tmp_path / "rag.prom"
    listener = PrometheusListener(path)
    for event in small_run:
        listener(event)
    listener.close()
    return path


def test_the_textfile_holds_the_figures_of_the_run(written: Path) -> None:
    found = samples(written)
    expected = {
        key("rag_dense_latency_seconds_count"): 2,
        key("rag_dense_latency_seconds_sum"): 0.04,
        key("rag_dense_latency_seconds_bucket", le="0.025"): 2,
        key("rag_dense_latency_seconds_bucket", le="0.01"): 0,
        key("rag_sparse_latency_seconds_count"): 1,
        key("rag_rerank_latency_seconds_count"): 1,
        key("rag_export_latency_seconds_sum"): 0.5,
        key("rag_gpu_peak_bytes", stage="dense", device="cuda:0"): 5000,
        key("rag_candidate_count", stage="rerank"): 100,
        key("rag_chunks_total", stage="dense", outcome="done"): 8,
        key("rag_chunks_total", stage="sparse", outcome="done"): 4,
        key("rag_chunks_total", stage="export", outcome="done"): 8,
        key("rag_chunks_total", stage="read", outcome="quarantined"): 1,
        key("rag_tokens_total", model="all-miniLM-l6", kind="embedded"): 200,
        key("rag_tokens_total", model="all-miniLM-l6", kind="padded"): 256,
        key("rag_tokens_total", model="all-miniLM-l6", kind="truncated"): 6,
        key("rag_fallback_total", stage="sparse", reason="no weights"): 1,
        key("rag_oom_retries_total", stage="dense"): 1,
        key("rag_oom_retries_total", stage="rerank"): 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert key("rag_chunks_total", stage="rerank", outcome="done") not in found


def test_names_and_labels_are_those_of_the_table(written: Path) -> None:
    for family in text_string_to_metric_families(written.read_text()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = names.METRIC_LABELS[name]
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(labels)
        assert family.documentation


def test_the_last_success_is_the_end_of_a_run_that_went_well(
    small_run, written: Path
) -> None:
    assert samples(written)[key(names.LAST_SUCCESS)] == small_run[-1].at


def test_a_failed_run_keeps_the_last_success_of_the_run_before(
    small_run, written: Path
) -> None:
    listener = PrometheusListener(written)
    listener(ev.RunFinished(at=9999, run_id="r", exit_code=1, seconds=1))
    listener.close()
    assert samples(written)[key(names.LAST_SUCCESS)] == small_run[-1].at


def test_before_any_success_there_is_no_time_of_success(tmp_path: Path) -> None:
    path = tmp_path / "rag.prom"
    path.write_text("this is { no metric\n")
    listener = PrometheusListener(path)
    listener(ev.RunFinished(run_id="r", exit_code=1, seconds=1))
    listener.close()
    assert key(names.LAST_SUCCESS) not in samples(path)


def test_a_lease_gives_cap_and_peak_of_the_stage_whose_model_held_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rag.prom"
    listener = PrometheusListener(path)
    for peak in (700, 600):
        listener(
            ev.LeaseChanged(
                stage="dense",
                model="m",
                device="cuda:0",
                action="released",
                cap_bytes=1000,
                before_bytes=0,
                peak_bytes=peak,
                after_bytes=0,
            )
        )
    listener.close()
    found = samples(path)
    assert found[key("rag_gpu_cap_bytes", device="cuda:0")] == 1000
    assert found[key("rag_gpu_peak_bytes", stage="dense", device="cuda:0")] == 700


@pytest.mark.parametrize("unit", ["chunks", "texts"])
def test_chunks_found_done_are_counted_as_resumed(unit: str, tmp_path: Path) -> None:
    path = tmp_path / "rag.prom"
    listener = PrometheusListener(path)
    stage = {"stage": "dense", "collection": "docs", "model": "m"}
    listener(ev.StageStarted(**stage, total=10, done_before=6, unit=unit))
    listener(ev.BatchFinished(**stage, items=4, seconds=0.1))
    listener(ev.StageFinished(**stage, items=10, seconds=0.1))
    listener.close()
    found = samples(path)
    assert found[key("rag_chunks_total", stage="dense", outcome="resumed")] == 6
    assert found[key("rag_chunks_total", stage="dense", outcome="done")] == 4


def test_a_stage_whose_progress_counts_files_still_counts_its_chunks(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rag.prom"
    listener = PrometheusListener(path)
    stage = {"stage": "read", "collection": "docs"}
    listener(ev.StageStarted(**stage, total=2, unit="files", done_before=1))
    listener(ev.BatchFinished(**stage, items=1, seconds=0.1))
    listener(ev.StageFinished(**stage, items=70, seconds=0.1))
    listener.close()
    found = samples(path)
    assert found[key("rag_chunks_total", stage="read", outcome="done")] == 70
    assert key("rag_chunks_total", stage="read", outcome="resumed") not in found


def test_the_textfile_is_whole_after_each_stage_and_leaves_nothing_beside_it(
    small_run, tmp_path: Path
) -> None:
    path = tmp_path / "rag.prom"
    listener = PrometheusListener(path)
    for event in small_run:
        listener(event)
        if isinstance(event, ev.StageFinished):
            assert path.read_text().endswith("\n")
            assert samples(path)
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_the_textfile_while_it_is_replaced_sees_it_whole(
    written: Path, small_run
) -> None:
    before = written.read_text()
    with written.open() as reader:
        listener = PrometheusListener(written)
        for event in small_run[:-1]:
            listener(event)
        assert reader.read() == before
        assert written.read_text() != before
        listener.close()


def test_a_textfile_that_can_no_longer_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    listener = PrometheusListener(folder / "rag.prom")
    folder.rmdir()
    with caplog.at_level(logging.WARNING):
        listener(ev.RunFinished(run_id="r", exit_code=0, seconds=1))
        listener.close()
    (record,) = caplog.records
    assert str(folder / "rag.prom") in record.getMessage()
    assert record.getMessage().endswith(": No such file or directory")


def test_a_textfile_that_finds_no_room_stays_as_it_was_and_stops_nothing(
    small_run, written: Path
) -> None:
    before = written.read_bytes()
    told: list[str] = []
    listener = PrometheusListener(written, tell=told.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        for event in small_run:
            listener(event)
        listener.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told == [f"Metrics are not being written to {written}: File too large"]
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_textfile_in_no_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        PrometheusListener(tmp_path / "missing" / "rag.prom")


def test_the_same_metrics_are_served_on_the_loopback_address(small_run) -> None:
    listener = PrometheusListener()
    for event in small_run:
        listener(event)
    port = listener.serve(0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        with pytest.raises(ConnectionRefusedError):
            # An address of this machine too, which one that listens to all would take.
            socket.create_connection(("127.0.0.2", port), timeout=5)
        with pytest.raises(UsageError, match=f"port {port}: Address already in use"):
            PrometheusListener().serve(port)
    finally:
        listener.close()
    assert "rag_dense_latency_seconds_count 2.0" in text
    assert "_created" not in text


def test_a_long_or_hostile_reason_stays_a_short_label(tmp_path: Path) -> None:
    path = tmp_path / "rag.prom"
    listener = PrometheusListener(path)
    listener(
        ev.FallbackUsed(stage="sparse", collection="c", reason='"\n\\' + "x" * 500)
    )
    listener.close()
    (reason,) = [
        dict(labels)["reason"]
        for name, labels in samples(path)
        if name == "rag_fallback_total"
    ]
    assert len(reason) == 80
    assert "\n" not in reason


def test_the_summary_agrees_with_the_textfile_and_with_the_spans(
    small_run, written: Path
) -> None:
    summary = MetricsSummary("docs")
    for event in small_run:
        summary(event)
    metrics = summary.metrics
    found = samples(written)
    for stage in ("dense", "sparse", "rerank", "export"):
        for suffix in ("_count", "_sum"):
            name = names.LATENCY_METRICS[stage] + suffix
            assert metrics[name] == found[key(name)]
    assert metrics['rag_tokens_total{model="all-miniLM-l6",kind="padded"}'] == 256
    assert summary.spans == {
        "rag.dense": 1,
        "rag.export": 1,
        "rag.rerank": 1,
        "rag.sparse": 1,
    }


def test_the_summary_of_one_collection_leaves_out_the_others(small_run) -> None:
    summary = MetricsSummary("elsewhere")
    for event in small_run:
        summary(event)
    assert summary.spans == {}


def test_chunks_without_a_sparse_entry_are_counted_even_where_there_are_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rag.prom"
    listener = PrometheusListener(path)
    for model, empty in (("first", 0), ("second", 3)):
        stage = {"stage": "sparse", "collection": "docs", "model": model}
        listener(ev.StageStarted(**stage, total=10))
        listener(ev.StageFinished(**stage, items=10, seconds=0.1, empty=empty))
        found = samples(path)
        assert found[key("rag_chunks_total", stage="sparse", outcome="empty")] == empty
    assert found[key("rag_chunks_total", stage="sparse", outcome="done")] == 20
    listener.close()


def test_a_file_that_was_set_aside_is_counted_apart_from_chunks(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rag.prom"
    listener, summary = PrometheusListener(path), MetricsSummary("docs")
    aside = {"collection": "docs", "file": "bad.json", "reason": "not_json"}
    for index in (None, 3, None):
        listener(ev.ItemQuarantined(**aside, index=index))
        summary(ev.ItemQuarantined(**aside, index=index))
    listener.close()
    found = samples(path)
    chunks = {"stage": "read", "outcome": "quarantined"}
    assert found[key(names.CHUNKS_TOTAL, **chunks)] == 1
    assert found[key(names.FILES_QUARANTINED_TOTAL, stage="read")] == 2
    assert summary.metrics == {
        'rag_chunks_total{stage="read",outcome="quarantined"}': 1,
        'rag_files_quarantined_total{stage="read"}': 2,
    }
