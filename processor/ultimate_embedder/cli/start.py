"""The first moments of a process: what a command needs is read, which takes a while.

A stop then is no crash: nothing has been begun. This module imports little, so that its
handlers stand early; those of `entry` take their place.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module

_STOPPED = 3  # EXIT_STOPPED, whose module takes long to import


def run_command(name: str) -> int:
    """Run the command of this name as a program of its own; return the exit code."""
    _end_quietly_when_stopped()
    function = getattr(import_module(f".{name}", __package__), name)
    from .entry import run_function

    return run_function(function)


def main() -> None:
    """Run the command line with all commands and end the process with its exit code."""
    _end_quietly_when_stopped()
    from .app import main as run

    run()


def _end_quietly_when_stopped() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored in the background
            signal.signal(number, _end)


def _end(*_: object) -> None:
    os.write(2, b"error: Stopped by a signal; nothing was begun.\n")
    os._exit(_STOPPED)
