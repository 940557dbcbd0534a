"""Progress on a pipe and on a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from processor.ultimate_embedder.telemetry import events as ev
from processor.ultimate_embedder.telemetry.progress import ProgressListener, duration


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def batches(count: int, seconds_apart: float, done_before: int = 0) -> list[ev.Event]:
    """A dense stage of 1,000 chunks, 25 a batch, from second 100."""
    started = ev.StageStarted(
        at=100,
        stage="dense",
        collection="docs",
        model="m",
        total=1000,
        done_before=done_before,
    )
    work = [
        ev.BatchFinished(
            at=100 + seconds_apart * (i + 1),
            stage="dense",
            collection="docs",
            model="m",
            items=25,
            seconds=seconds_apart,
        )
        for i in range(count)
    ]
    return [started, *work]


def heard(listener: ProgressListener, events: list[ev.Event]) -> None:
    for event in events:
        listener(event)


def test_a_pipe_gets_plain_lines_with_percentage_rate_and_time_left() -> None:
    pipe = io.StringIO()
    heard(ProgressListener(pipe, interval_seconds=5), batches(20, 0.5))
    assert pipe.getvalue().splitlines() == [
        "docs dense m: 25.0 %, 250 of 1,000 chunks, 50.0/s, 15 s left",
        "docs dense m: 50.0 %, 500 of 1,000 chunks, 50.0/s, 10 s left",
    ]


def test_a_line_tells_which_pass_it_is() -> None:
    pipe = io.StringIO()
    started, *work = batches(10, 0.5)
    heard(ProgressListener(pipe), [replace(started, turn=(2, 3)), *work])
    assert pipe.getvalue().startswith("docs dense m (pass 2 of 3): 25.0 %, ")


def test_work_found_done_counts_for_the_percentage_and_not_for_the_rate() -> None:
    pipe = io.StringIO()
    heard(ProgressListener(pipe), batches(10, 0.5, done_before=500))
    assert pipe.getvalue() == (
        "docs dense m: 75.0 %, 750 of 1,000 chunks, 50.0/s, 5 s left\n"
    )


def test_an_unknown_total_shows_count_and_rate() -> None:
    pipe = io.StringIO()
    listener = ProgressListener(pipe)
    listener(ev.StageStarted(at=0, stage="read", collection="docs", unit="files"))
    listener(
        ev.BatchFinished(at=10, stage="read", collection="docs", items=40, seconds=10)
    )
    assert pipe.getvalue() == "docs read: 40 files, 4.0/s\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_batches_of_an_unannounced_or_ended_stage_are_passed_over(stream) -> None:
    out = stream()
    listener = ProgressListener(out)
    started, *work = batches(20, 1)
    heard(listener, work)
    listener(started)
    listener(ev.CollectionFinished(collection="docs", chunks=0, seconds=1, error="x"))
    heard(listener, work)
    listener.close()
    assert "%" not in out.getvalue().replace("0%", "")


def test_a_terminal_gets_a_live_bar_that_is_gone_afterwards() -> None:
    terminal = Terminal()
    listener = ProgressListener(terminal)
    heard(listener, batches(20, 0.5))
    assert listener._live is not None
    (task,) = listener._live.tasks
    assert (task.completed, task.total) == (500, 1000)
    listener(
        ev.StageFinished(
            stage="dense", collection="docs", model="m", items=500, seconds=10
        )
    )
    assert listener._live.tasks == []
    listener(ev.RunFinished(run_id="r", exit_code=0, seconds=1))
    listener.close()
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is shown again


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    heard(ProgressListener(terminal), batches(10, 0.5))
    assert terminal.getvalue() == (
        "docs dense m: 25.0 %, 250 of 1,000 chunks, 50.0/s, 15 s left\n"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said
