"""Faults at a chosen moment of a run: a kill, a refused call, a power cut.

The moments are calls that change files. They are counted in the process that runs, by
wrappers that hand on to the real calls.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Fault = Literal["none", "kill", "ENOSPC", "EIO", "EACCES", "power cut"]

CALLS = (
    *("pwrite", "fsync", "fdatasync", "rename", "replace", "mkdir", "unlink"),
    *("rmdir", "ftruncate"),
)
"""Functions of `os` that count. What buffered files write is seen by their fsync."""


@dataclass
class Faults:
    """Lets the `at`-th counted call meet a fault; `count` tells how many there were.

    A kill strikes before the call. A power cut strikes there too, and what was written
    since the last sync of a file is kept, lost or torn, as `seed` decides.
    """

    fault: Fault
    at: int
    below: Path
    seed: int = 0
    count: int = 0
    sticky: bool = False  # a disk that is full stays full
    unsynced: dict[str, list[tuple[int, bytes, int]]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)

    def install(self) -> None:
        """Wrap the calls of this process, for good: meant for a child process."""
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        sys.addaudithook(self._audit)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            path = self._path(arguments[0])
            if not path.startswith(str(self.below)):
                return real(*arguments, **named)
            self._maybe_strike()
            if name == "pwrite":
                self._remember(path, arguments[1], arguments[2])
            result = real(*arguments, **named)
            if name in ("rename", "replace"):
                self._moved(path, self._path(arguments[1]))
            if name in ("fsync", "fdatasync"):
                self.unsynced.pop(path, None)
                self.opened.discard(path)
            return result

        return call

    def _maybe_strike(self) -> None:
        self.count += 1
        due = self.count >= self.at if self.sticky else self.count == self.at
        if not due or self.fault == "none":
            return
        if self.fault == "power cut":
            self._lose()
        if self.fault in ("kill", "power cut"):
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self.fault)
        raise OSError(code, os.strerror(code))

    def _path(self, target: Any) -> str:
        if isinstance(target, int):
            return str(Path(f"/proc/self/fd/{target}").readlink())
        return str(Path(os.fspath(target)).absolute())

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note files that are opened to be written anew."""
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        mode, path = arguments[1], os.fsdecode(os.fspath(arguments[0]))
        if isinstance(mode, str) and "w" in mode and path.startswith(str(self.below)):
            self.opened.add(path)

    def _moved(self, before: str, after: str) -> None:
        """Follow what is not synced to the place where a rename puts it."""
        for path in [p for p in self.opened if f"{p}/".startswith(f"{before}/")]:
            self.opened.discard(path)
            self.opened.add(after + path.removeprefix(before))
        for path in [p for p in self.unsynced if f"{p}/".startswith(f"{before}/")]:
            self.unsynced[after + path.removeprefix(before)] = self.unsynced.pop(path)

    def _remember(self, path: str, data: bytes, offset: int) -> None:
        """Keep what stands where a write goes, to undo it."""
        with Path(path).open("rb") as stream:
            stream.seek(offset)
            before = stream.read(len(data))
        self.unsynced.setdefault(path, []).append((offset, before, len(data)))

    def _lose(self) -> None:
        """Undo some of what no sync has secured; what was opened anew may be short."""
        chance = random.Random(self.seed * 10_007 + self.at)
        for path, writes in self.unsynced.items():
            for offset, before, length in reversed(writes):
                kept = chance.choice((0, length, chance.randrange(length + 1)))
                lost = before.ljust(length, b"\0")[kept:]
                with Path(path).open("r+b") as stream:
                    stream.seek(offset + kept)
                    stream.write(lost)
        for path in self.opened - self.unsynced.keys():
            if Path(path).is_file():
                os.truncate(path, chance.randrange(Path(path).stat().st_size + 1))


def in_child(work: Callable[[], int], faults: Faults | None = None) -> tuple[int, int]:
    """Do the work in a forked child; return its exit status and the calls counted.

    The status is negative where a signal ended it. What the child raises is exit 99.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 99
        try:
            if faults is not None:
                faults.install()
            status = work()
        finally:
            counted = faults.count if faults is not None else 0
            os.write(writer, str(counted).encode())
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), int(said or b"0")
