"""What the log says, and what it never says."""

from __future__ import annotations

import io
import sys
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.telemetry import events as ev
from processor.ultimate_embedder.telemetry.logs import LogFormat, LogListener
from processor.ultimate_embedder.telemetry.printable import printable


def lines(events: list[ev.Event], **options) -> list[str]:
    stream = io.StringIO()
    listener = LogListener(stream=stream, **options)
    for event in events:
        listener(event)
    listener.close()
    return stream.getvalue().splitlines()


def test_each_event_worth_reading_is_one_line_and_batches_are_none(small_run) -> None:
    written = lines(small_run, level="debug")
    batches = sum(isinstance(event, ev.BatchFinished) for event in small_run)
    assert batches == 4
    assert len(written) == len(small_run) - batches


def test_plain_lines_tell_what_was_done_and_how_fast(small_run) -> None:
    written = "\n".join(lines(small_run))
    assert (
        "INFO    docs: dense all-miniLM-l6 finished, 8 in 0.5 s, 16.0/s on cuda:0, "
        "200 tokens" in written
    )
    assert "WARNING docs: set aside bad.json [3]: blank" in written
    assert "WARNING docs: sparse fell back, no weights" in written
    assert (
        "1970-01-01T00:16:40.000+00:00 INFO    Run run-1 started over docs" in written
    )


def test_what_an_earlier_run_did_is_told_and_is_no_speed() -> None:
    event = ev.StageFinished(
        stage="dense", collection="docs", items=10, seconds=2.0, reused=6
    )
    (line,) = lines([event])
    assert "finished, 10 in 2.0 s, 2.0/s on cpu, 6 from an earlier run" in line


def test_texts_that_stand_in_several_chunks_are_counted_once_in_the_speed() -> None:
    event = ev.StageFinished(
        stage="dense", collection="docs", items=10, seconds=2.0, repeats=4
    )
    (line,) = lines([event])
    told = "finished, 6 texts (10 chunks, 4 repeat another) in 2.0 s, 3.0/s on cpu"
    assert told in line


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            ev.CollectionFinished(collection="docs", chunks=1, seconds=1.0),
            "docs: published, 1 chunk in 1.0 s",
        ),
        (
            ev.CollectionFinished(
                collection="docs", chunks=1, seconds=1.0, up_to_date=True
            ),
            "docs: up to date, 1 chunk; every file is as its sum says",
        ),
        (
            ev.StageFinished(
                stage="dense", collection="docs", items=2, seconds=1.0, repeats=1
            ),
            "1 text (2 chunks, 1 repeats another)",
        ),
    ],
)
def test_one_is_told_in_the_singular(event: ev.Event, words: str) -> None:
    assert words in lines([event])[0]


def test_json_lines_carry_every_field_of_the_event(small_run) -> None:
    records = [orjson.loads(line) for line in lines(small_run, log_format="json")]
    dense = next(r for r in records if r["event"] == "stage_finished")
    assert dense == {
        "at": "1970-01-01T00:16:43.000+00:00",
        "level": "info",
        "event": "stage_finished",
        "stage": "dense",
        "collection": "docs",
        "model": "all-miniLM-l6",
        "items": 8,
        "seconds": 0.5,
        "tokens": 200,
        "device": "cuda:0",
        "gpu_peak_bytes": 5000,
        "candidates": None,
        "fallback_reason": None,
        "reused": 0,
        "empty": 0,
        "repeats": 0,
    }
    assert records[0]["settings"] == {"profile": "embedded (default)"}
    assert records[0]["collections"] == ["docs"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_a_level_hides_what_is_below_it(level, heard: int) -> None:
    events: list[ev.Event] = [
        ev.StageStarted(stage="dense", collection="docs"),
        ev.CollectionStarted(collection="docs"),
        ev.Warned(message="The disk is nearly full."),
        ev.CollectionFinished(collection="docs", chunks=0, seconds=1, error="broken"),
    ]
    assert len(lines(events, level=level)) == heard


def test_a_failed_run_is_an_error_line() -> None:
    event = ev.RunFinished(run_id="r", exit_code=3, seconds=1)
    assert " ERROR " in lines([event], level="error")[0]


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_a_hostile_file_name_cannot_forge_a_line_or_reach_the_terminal(
    log_format: LogFormat,
) -> None:
    name = "a\nERROR forged\x1b[2J\u202egnp.exe\udc80\x9b\u2028.json"
    event = ev.ItemQuarantined(
        collection="docs", file=name, index=None, reason="unreadable"
    )
    (line,) = lines([event], log_format=log_format)
    assert not set("\n\x1b\u202e\udc80\x9b\u2028") & set(line)
    assert line.encode("utf-8")


@given(st.text(st.characters(), max_size=400), st.integers(1, 350))
def test_printable_text_is_one_bounded_line_without_controls(
    text: str, limit: int
) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs"}
    assert shown.encode("utf-8") is not None


def test_ordinary_text_is_printed_as_it_is() -> None:
    assert printable("Ärger/файл (1).md – 日本") == "Ärger/файл (1).md – 日本"


def test_without_a_stream_lines_follow_the_standard_error_of_the_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = LogListener()
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    listener(ev.Warned(message="Heard."))
    assert later.getvalue().endswith("Heard.\n")


def test_a_loan_and_a_pass_are_told_in_gib_and_in_turn() -> None:
    gib = 2**30
    loan = {"stage": "dense", "model": "m", "device": "cuda:0", "cap_bytes": 12 * gib}
    before = {"before_bytes": gib // 2, "peak_bytes": 7 * gib}
    started, acquired, released = lines(
        [
            ev.StageStarted(
                stage="dense", collection="docs", model="m", total=9, turn=(2, 3)
            ),
            ev.LeaseChanged(action="acquired", **loan, **before, after_bytes=0),
            ev.LeaseChanged(action="released", **loan, **before, after_bytes=gib),
        ],
        level="debug",
    )
    assert started.endswith("docs: dense m started, pass 2 of 3, 9 chunks")
    assert acquired.endswith(
        "INFO    dense m acquired cuda:0: 0.50 GiB in use, cap 12.00 GiB"
    )
    assert released.endswith(
        "INFO    dense m released cuda:0: 0.50 GiB before, peak 7.00 GiB, "
        "1.00 GiB after, cap 12.00 GiB"
    )
