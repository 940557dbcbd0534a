"""One holder of a card at a time, also between processes. A lock dies with its holder.

`flock` belongs to an open file, so a second hold within one process is refused too.
What stands in the file is for the message only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .errors import DeviceBusy, OutputError
from .telemetry.events import Emit, Warned

_SECONDS_BETWEEN_TRIES = 0.1
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def lock_folder() -> Path:
    """Return the folder for locks that every process of this user shares."""
    return Path(tempfile.gettempdir()) / f"ultimate-embedder-{os.getuid()}"


@contextmanager
def device_lock(
    folder: Path,
    identity: str,
    *,
    shown: str,
    model: str,
    deadline: float,
    emit: Emit,
) -> Iterator[None]:
    """Hold a card for the length of the block; wait for it until `deadline`.

    `deadline` is on the monotonic clock; one in the past means not to wait.

    Raises:
        DeviceBusy: another has it; the message names process, model and since when.
        OutputError: the lock file cannot be made, or its file system has no locks.
    """
    path = _own_folder(folder) / f"{_UNSAFE.sub('-', identity)}.lock"
    descriptor = _take(path, shown, deadline, emit)
    try:
        holder = {
            "pid": os.getpid(),
            "model": model,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk: the card is held all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(path: Path, shown: str, deadline: float, emit: Emit) -> int:
    """Return an open file that is locked, and is still the one at `path`."""
    told = False
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeviceBusy(
                    f"{shown} is held by {holder}.",
                    cure="Wait for it with --gpu-wait SECONDS, or choose another "
                    "--device.",
                ) from None
            if not told:
                told = True
                emit(
                    Warned(
                        message=f"Waiting up to {left:.0f} s for {shown}, held by "
                        f"{holder}."
                    )
                )
            time.sleep(min(_SECONDS_BETWEEN_TRIES, left))
            continue
        except OSError as error:
            os.close(descriptor)
            raise OutputError(
                f"{path} cannot be locked: {error.strerror or error}.",
                cure="Set TMPDIR to a folder on a file system that has locks.",
            ) from error
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # someone cleaned the folder between open and lock


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """Return who wrote itself into the lock, as far as it has."""
    said: object = None
    with contextlib.suppress(ValueError):
        said = json.loads(os.pread(descriptor, 4096, 0))
    if not isinstance(said, dict):
        return "another process"
    return (
        f"process {said.get('pid', 'unknown')} for {said.get('model', 'a model')} "
        f"since {said.get('since', 'an unknown time')}"
    )


def _own_folder(folder: Path) -> Path:
    """Make the folder; refuse one that another user could have laid there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise _unusable(folder, "it is not a folder of this user")
    return folder


def _unusable(path: Path, why: str) -> OutputError:
    return OutputError(
        f"A GPU cannot be locked by {path}: {why}.",
        cure="Remove it or mend its permissions; TMPDIR moves it.",
    )
