"""How an error reaches a person: one line on standard error, and the exit code."""

from __future__ import annotations

import errno
import sys
import traceback

import orjson
import typer

from ..errors import EmbedderError, FolderBusy, OutOfMemory
from ..telemetry.printable import printable

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 3
RESUME = "resume with"

_MESSAGE_LIMIT = 4000
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def complain(
    error: BaseException,
    *,
    resume: str,
    kept: bool = True,
    debug: bool = False,
    as_json: bool = False,
) -> int:
    """Tell of `error` on standard error and return the exit code it stands for.

    `resume` is the command that goes on after a stop, where it has `kept` what it did.
    A traceback is printed under `debug` only.
    """
    if debug and not isinstance(error, typer.TyperException):
        traceback.print_exception(error, file=sys.stderr)
    line, code = describe(error, kept=kept)
    step = _next_step(error, code, kept=kept)
    if as_json:
        say_json(line, code, resume=resume if step else None)
        return code
    say("error", line)
    if step:
        say(step, resume)
    return code


def _next_step(error: BaseException, code: int, *, kept: bool) -> str | None:
    """Return what the same command is good for after this, None where for nothing."""
    if isinstance(error, FolderBusy):
        return "run again later"
    return RESUME if kept and code == EXIT_STOPPED else None


def describe(error: BaseException, *, kept: bool = True) -> tuple[str, int]:
    """Return the sentence and the exit code for any exception."""
    so_far = "; what is finished is kept." if kept else "."
    match error:
        case EmbedderError():
            return str(error), error.exit_code
        case typer.TyperException():
            return _usage_sentence(error), EXIT_USAGE
        case KeyboardInterrupt():
            return f"Stopped by a signal{so_far}", EXIT_STOPPED
        case _ if _no_memory(error):
            cure = OutOfMemory().cure if kept else "Give the process more."
            return f"Memory ran out{so_far} {cure}", OutOfMemory.exit_code
        case OSError() if error.errno in _DISK_FULL:
            place = f" while writing {error.filename}" if error.filename else ""
            return f"The disk is full{place}{so_far}", EXIT_STOPPED
        case _:
            return (
                f"Unexpected {type(error).__name__}: {error}. "
                "Run again with --debug for the traceback."
            ), EXIT_FAILED


def _no_memory(error: BaseException) -> bool:
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError)


def _usage_sentence(error: typer.TyperException) -> str:
    sentence = error.format_message().rstrip(". ")
    if not sentence.endswith("?"):
        sentence += "."
    context = getattr(error, "ctx", None)
    if context is None:
        return sentence
    return f"{sentence} See {context.command_path} --help."


def say(label: str, message: str) -> None:
    """Write `label: message` as one line on standard error."""
    sys.stderr.write(f"{label}: {_one_line(message)}\n")
    sys.stderr.flush()


def say_json(message: str, code: int, *, resume: str | None = None) -> None:
    """Write an error as one JSON object on a line of standard error."""
    record = {"level": "error", "event": "error", "message": _one_line(message)}
    stop = {"resume": resume} if resume is not None else {}
    document = record | {"exit_code": code} | stop
    sys.stderr.write(orjson.dumps(document).decode() + "\n")


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()), limit=_MESSAGE_LIMIT)
