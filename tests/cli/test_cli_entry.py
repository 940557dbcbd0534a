"""How a command ends: exit codes, one line of error, what resumes it."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer

from processor.ultimate_embedder.cli.app import app
from processor.ultimate_embedder.cli.entry import (
    Invocation,
    keeps_work,
    run_function,
)
from processor.ultimate_embedder.cli.errors_out import complain
from processor.ultimate_embedder.errors import (
    BundleError,
    DeviceBusy,
    InputError,
    MissingExtra,
    OutputError,
    UnknownModel,
    UsageError,
)
from processor.ultimate_embedder.run.output_lock import only_run_in


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("Wrong.", cure="Right it."), 2),
        (UnknownModel("No such model."), 2),
        (MissingExtra("Spans", "otlp"), 2),
        (InputError("Bad input."), 1),
        (BundleError("Bad bundle."), 1),
        (DeviceBusy("Busy."), 3),
        (OutputError("Full."), 3),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 3),
        (KeyboardInterrupt(), 3),
        (ValueError("oddly\nbroken"), 1),
        (OSError(errno.EACCES, "Permission denied"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(raising(error), []) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert [line.split(":")[0] for line in lines[1:]] == (
        ["resume with"] if code == 3 else []
    )
    assert "Traceback" not in err


def test_the_cure_follows_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    run_function(raising(UsageError("It is wrong.", cure="Right it.")), [])
    assert capsys.readouterr().err == "error: It is wrong. Right it.\n"


def test_an_unexpected_error_names_its_kind_and_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_function(raising(ZeroDivisionError("by nought")), [])
    err = capsys.readouterr().err
    assert "Unexpected ZeroDivisionError: by nought" in err
    assert "--debug" in err


@pytest.mark.parametrize("error", [UsageError("Wrong."), ValueError("odd")])
def test_debug_adds_the_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    run_function(raising(error), ["--debug"])
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: ")


def test_a_hostile_message_is_printed_harmless(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_function(raising(InputError("a\x1b[31m\u202eb\nc")), [])
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert err.count("\n") == 1


def test_errors_can_be_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(OutputError("Full."), resume="again", as_json=True) == 3
    assert json.loads(capsys.readouterr().err) == {
        "level": "error",
        "event": "error",
        "message": "Full.",
        "exit_code": 3,
        "resume": "again",
    }


def needs_number(number: Annotated[int, typer.Option()], name: str = "x") -> None:
    typer.echo(f"{name}{number}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing option '--number'"),
        (["--number", "one"], "'--number'"),
        (["--nombre", "1"], "--nombre"),
        (["--number", "1", "more"], "more"),
        (["--number"], "'--number' requires an argument"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(needs_number, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_a_command_that_ends_well_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_function(needs_number, ["--number", "3"]) == 0
    assert capsys.readouterr().out == "x3\n"


def test_a_command_may_choose_its_exit_code() -> None:
    def command() -> None:
        raise typer.Exit(1)

    assert run_function(command, []) == 1


def test_the_resume_command_is_the_same_without_fresh() -> None:
    invocation = Invocation(
        "python scripts/embed.py", ("--fresh", "--collections", "two words", "b")
    )
    assert (
        invocation.resume_command
        == "python scripts/embed.py --collections 'two words' b"
    )


WAITING = """
import signal, sys, time
from processor.ultimate_embedder.cli.entry import run_function

# A job in the background of a shell is born deaf to this signal.
signal.signal(signal.SIGINT, signal.default_int_handler)

def wait(name: str = "") -> None:
    print("ready", flush=True)
    time.sleep(60)

sys.exit(run_function(wait))
"""


@pytest.mark.parametrize(
    ("name", "arguments", "kept"),
    [
        ("search", [], False),
        ("verify", [], False),
        ("adapt", [], False),
        ("clean", [], False),
        ("repair", [], False),
        ("evaluate", [], False),
        ("evaluate", ["--work-dir", "w"], True),
        ("evaluate", ["--work-dir=w"], True),
        ("chunk", [], True),
        ("upload", [], True),
    ],
)
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), MemoryError(), OSError(errno.ENOSPC, "No space", "/x")],
    ids=lambda error: type(error).__name__,
)
def test_a_stopped_command_is_resumed_only_where_it_keeps_its_work(
    name: str,
    arguments: list[str],
    kept: bool,
    error: BaseException,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command(work_dir: str = "") -> None:
        raise error

    command.__name__ = name
    assert run_function(command, arguments) == 3
    said = capsys.readouterr().err
    assert ("\nresume with: " in said) is kept
    assert ("what is finished is kept" in said) is kept


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["search", "b", "clean"], False),
        (["--debug", "verify", "embed"], False),
        (["models", "fetch", "bge-m3"], True),
        (["models", "check"], False),
        (["embed", "--collections", "search"], True),
    ],
)
def test_whether_work_is_kept_is_known_of_a_subcommand(
    arguments: list[str], kept: bool
) -> None:
    assert keeps_work(typer.main.get_command(app), arguments) is kept


def test_a_busy_folder_is_one_to_come_back_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        with only_run_in(tmp_path):
            pass

    with only_run_in(tmp_path):
        assert run_function(command, []) == 3
    lines = capsys.readouterr().err.splitlines()
    assert "Another run" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == ["run again later"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_3_and_the_command_that_resumes(
    number: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "wait.py"
    script.write_text(WAITING, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), "--name", "a b"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    lines = err.splitlines()
    assert len(lines) == 2
    resume = lines[1].removeprefix("resume with: ")
    assert shlex.split(resume)[1:] == [str(script), "--name", "a b"]
    python = Path(shutil.which(shlex.split(resume)[0]) or "")
    assert python.absolute() == Path(sys.executable).absolute()


IMPORTING = """
import os, signal, sys

class StopsOnTheWay:
    def find_spec(self, name, *_):
        if name.endswith("cli.search"):
            os.kill(os.getpid(), int(sys.argv[1]))

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, StopsOnTheWay())
from processor.ultimate_embedder.cli import start

sys.exit(start.run_command("search") if sys.argv[2] == "script" else start.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["script", "all commands"])
def test_a_signal_while_modules_are_imported_is_one_line_and_3(
    number: signal.Signals, way: str, tmp_path: Path
) -> None:
    script = tmp_path / "import.py"
    script.write_text(IMPORTING, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(number.value), way],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == "error: Stopped by a signal; nothing was begun.\n"


def test_the_commands_are_read_by_what_bears_signals() -> None:
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (place,) = project["project"]["scripts"].values()
    assert place == "processor.ultimate_embedder.cli.start:main"


PRINTING = """
import sys
from processor.ultimate_embedder.cli.entry import run_function

def talk() -> None:
    for number in range(100000):
        print(number)

sys.exit(run_function(talk))
"""


def test_a_reader_that_goes_away_is_no_drama(tmp_path: Path) -> None:
    script = tmp_path / "talk.py"
    script.write_text(PRINTING, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_importing_the_embed_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, processor.ultimate_embedder.cli.embed;"
        "print(*{'torch', 'transformers', 'faiss', 'qdrant_client', 'tokenizers'}"
        " & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == ""
