"""From a command function to a process: arguments, signals, errors, exit code.

`scripts/*.py` and the console entry point both come through here.
"""

from __future__ import annotations

import inspect
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from .errors_out import EXIT_FAILED, EXIT_STOPPED, RESUME, complain
from .options import ManyValuesCommand

DEBUG_OPTION = "--debug"
KEEP_NOTHING = frozenset(
    {
        "adapt",
        "check_models",
        "clean",
        "export_model",
        "list_models",
        "repair",
        "report",
        "search",
        "serve",
        "show_model",
        "verify",
    }
)
"""Commands that begin anew after a stop: there is nothing to resume."""

KEEP_WITH = {"evaluate": "--work-dir"}
"""Commands that can be resumed if they were given this option."""

_HELP = {"help_option_names": ["--help", "-h"]}
EPILOG = "--debug, with any command: show the traceback of an error."


@dataclass(frozen=True, slots=True)
class Invocation:
    """How the process was called."""

    program: str
    arguments: tuple[str, ...] = ()
    again: str | None = None  # what calls the program, None: `program` does

    @property
    def resume_command(self) -> str:
        """The command line that goes on where this one stopped."""
        kept = [argument for argument in self.arguments if argument != "--fresh"]
        return shlex.join([*shlex.split(self.again or self.program), *kept])


def run_function(
    function: Callable[..., None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one command function as a program of its own and return the exit code."""
    app = new_app()
    register(app, function)
    return run(app, argv)


def new_app(summary: str | None = None) -> typer.Typer:
    """Return an application whose help is plain text.

    Rich's help cuts long option names short on a terminal of 80 columns.
    """
    return typer.Typer(
        help=summary,
        epilog=EPILOG,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=_HELP,
    )


def register(
    app: typer.Typer,
    function: Callable[..., None],
    name: str | None = None,
) -> None:
    """Make a function a command of `app`; its docstring is the help."""
    text = inspect.cleandoc(function.__doc__ or "")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    app.command(
        name,
        cls=ManyValuesCommand,
        help="\n\n".join(paragraphs),
        epilog=EPILOG,
        context_settings=_HELP,
    )(function)


def run(app: typer.Typer, argv: Sequence[str] | None = None) -> int:
    """Run a Typer application and return the exit code; nothing is raised."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    invocation = Invocation(
        _program(sys.argv[0]), tuple(arguments), _again(sys.argv[0])
    )
    command = typer.main.get_command(app)
    kept = keeps_work(command, arguments)
    with _stopped_in_order(invocation.resume_command if kept else None):
        return _run(command, arguments, invocation, kept=kept)


def keeps_work(command: Any, arguments: Sequence[str]) -> bool:
    """Say whether the command that is called goes on where it was stopped."""
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    name = getattr(command.callback, "__name__", "")
    option = KEEP_WITH.get(name)
    if option is not None:
        return any(word.split("=")[0] == option for word in arguments)
    return name not in KEEP_NOTHING


def _run(
    command: Any, arguments: list[str], invocation: Invocation, *, kept: bool
) -> int:
    debug = _take_debug(arguments)
    resume = invocation.resume_command
    try:
        with command.make_context(
            invocation.program, arguments, obj=invocation
        ) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        return _reader_has_gone()
    except KeyboardInterrupt as error:
        return complain(error, resume=resume, kept=kept, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last line: all become one sentence
        return complain(error, resume=resume, kept=kept, debug=debug)
    return 0


def _program(path: str) -> str:
    if path.endswith(".py"):
        return f"python {shlex.quote(path)}"
    return Path(path).name


def _again(path: str) -> str:
    """Return what calls a program here again: a short name only where it finds it."""
    if path.endswith(".py"):
        return f"{_found('python', sys.executable)} {shlex.quote(path)}"
    return _found(Path(path).name, path)


def _found(name: str, path: str) -> str:
    found = shutil.which(name)
    same = found is not None and Path(found).absolute() == Path(path).absolute()
    return name if same else shlex.quote(path)


def _take_debug(arguments: list[str]) -> bool:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if DEBUG_OPTION not in arguments[:end]:
        return False
    arguments.remove(DEBUG_OPTION)
    return True


@contextmanager
def _stopped_in_order(resume: str | None) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the work in order, and a second one end it at once.

    After the first, the process is on its way out: what follows must not turn its exit
    code into that of a crash, so the signals are not given back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's business
        return
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            # Not through sys.stderr: the signal may have come while it was written to.
            if resume is not None:
                os.write(2, f"{RESUME}: {resume}\n".encode())
            os._exit(EXIT_STOPPED)
        stopping = True
        raise KeyboardInterrupt

    before: dict[int, Any] = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # ignored in the background
    }
    try:
        yield
    finally:
        if not stopping:
            for number, handler in before.items():
                signal.signal(number, handler)


def _reader_has_gone() -> int:
    """Point standard output nowhere, so that Python's last flush stays silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED
