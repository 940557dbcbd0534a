"""Reporting settings become listeners, and every one of them is closed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from processor.ultimate_embedder.cli.listeners import listening
from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.settings import ReportingConfig
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    CollectionStarted,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    Warned,
)


def a_small_run() -> tuple[object, ...]:
    return (
        RunStarted(run_id="r", collections=("c",), settings={}),
        CollectionStarted(collection="c"),
        StageStarted(stage="dense", collection="c", model="m", total=2),
        BatchFinished(stage="dense", collection="c", model="m", items=2, seconds=0.1),
        StageFinished(stage="dense", collection="c", model="m", items=2, seconds=0.1),
        RunFinished(run_id="r", exit_code=0, seconds=0.2),
    )


def test_json_writes_nothing_but_objects(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(ReportingConfig(log_level="debug"), "json") as emit:
        for event in a_small_run():
            emit(event)  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out == ""
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[0] == "run_started"
    assert events[-1] == "run_finished"


def test_plain_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(ReportingConfig(), "plain") as emit:
        for event in a_small_run():
            emit(event)  # type: ignore[arg-type]
        emit(Warned(message="odd \x1b[31m"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "Run r ended with exit code 0" in err
    assert "\x1b" not in err
    assert "\r" not in err


def test_the_level_hides_what_is_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(ReportingConfig(log_level="error"), "plain") as emit:
        for event in a_small_run():
            emit(event)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_a_textfile_holds_the_metrics_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "embedder.prom"
    with listening(ReportingConfig(metrics_textfile=path), "plain") as emit:
        for event in a_small_run():
            emit(event)  # type: ignore[arg-type]
    capsys.readouterr()
    assert 'rag_chunks_total{outcome="done",stage="dense"} 2.0' in path.read_text()


def test_a_textfile_in_no_folder_is_refused_before_the_run(tmp_path: Path) -> None:
    reporting = ReportingConfig(metrics_textfile=tmp_path / "no" / "x.prom")
    with pytest.raises(UsageError), listening(reporting, "plain"):
        raise AssertionError("the run must not begin")
