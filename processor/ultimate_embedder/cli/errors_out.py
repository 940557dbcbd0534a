"""How an error reaches a person: one line on standard error, and the exit code."""

from __future__ import annotations

import errno
import sys
import traceback

import orjson
import typer

from ..errors import EmbedderError, OutOfMemory
from ..telemetry.printable import printable

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 3

_MESSAGE_LIMIT = 4000
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def complain(
    error: BaseException, *, resume: str, debug: bool = False, as_json: bool = False
) -> int:
    """Tell of `error` on standard error and return the exit code it stands for.

    `resume` is the command that goes on after a stop. A traceback is printed under
    `debug` only.
    """
    if debug and not isinstance(error, typer.TyperException):
        traceback.print_exception(error, file=sys.stderr)
    line, code = describe(error)
    if as_json:
        say_json(line, code, resume=resume if code == EXIT_STOPPED else None)
        return code
    say("error", line)
    if code == EXIT_STOPPED:
        say("resume with", resume)
    return code


def describe(error: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit code for any exception."""
    match error:
        case EmbedderError():
            return str(error), error.exit_code
        case typer.TyperException():
            return _usage_sentence(error), EXIT_USAGE
        case KeyboardInterrupt():
            return "Stopped by a signal; what is finished is kept.", EXIT_STOPPED
        case _ if _no_memory(error):
            return str(OutOfMemory()), OutOfMemory.exit_code
        case OSError() if error.errno in _DISK_FULL:
            place = f" while writing {error.filename}" if error.filename else ""
            return f"The disk is full{place}; what is finished is kept.", EXIT_STOPPED
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
    context = getattr(error, "ctx", None)
    if context is None:
        return f"{sentence}."
    return f"{sentence}. See {context.command_path} --help."


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
