"""One run at a time in an output folder. The lock dies with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FolderBusy, OutputError

_LOCK = ".lock"  # beside the collections' folders: no name of one


@contextmanager
def only_run_in(work_root: Path) -> Iterator[None]:
    """Hold the folder for the length of the block.

    Raises:
        FolderBusy: another run holds it.
        OutputError: the lock cannot be made, or the file system has no locks.
    """
    path = work_root / _LOCK
    try:
        work_root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(
            f"Writing {path} failed: {error.strerror or error}.",
            cure="Mend its permissions or choose another --output-dir.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
            raise FolderBusy(
                f"Another run (process {holder or 'unknown'}) works in "
                f"{work_root.parent}.",
                cure="Wait for it to end, or choose another --output-dir.",
            ) from None
        except OSError as error:
            raise OutputError(
                f"{path} cannot be locked: {error.strerror or error}.",
                cure="Choose an --output-dir on a file system that has locks.",
            ) from error
        with contextlib.suppress(OSError):  # `clean` must work on a full disk
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)
