"""Make a finished folder visible at once, and clear away what a crash left behind.

A new bundle is made in a hidden folder beside its place. Where the file system can, it
changes places with the old one in one step (renameat2, RENAME_EXCHANGE: Linux). Else
the old one is renamed to `.previous-<collection>` and the new one takes its place; a
crash between the two is mended by `recover` at the next start.

A staging folder is locked (flock) by the process that fills it, so that one left by a
dead process can be told from one in use. Where the file system has no locks, nothing
is taken for stale.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UsageError
from .layout import MANIFEST

Exchange = Callable[[Path, Path], bool]
"""Swaps two folders in one step and returns True, or does nothing and returns False."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def exchange_folders(first: Path, second: Path) -> bool:
    """Swap two folders in one step; return whether the system could.

    Raises:
        OSError: the system can, and refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    result = libc.renameat2(
        _AT_FDCWD,
        os.fsencode(first),
        _AT_FDCWD,
        os.fsencode(second),
        _RENAME_EXCHANGE,
    )
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(second))


def previous_path(target: Path) -> Path:
    """Return where the old bundle stands between the two renames."""
    return target.with_name(f".previous-{target.name}")


def publish_folder(staging: Path, target: Path, exchange: Exchange) -> None:
    """Put `staging` in the place of `target`; the old bundle is removed afterwards.

    Raises:
        OSError: a rename failed; the old bundle is in its place.
    """
    with folder_lock(target.parent):
        if not target.exists():
            staging.rename(target)
        elif exchange(staging, target):
            fsync_folder(target.parent)
            _remove_old(staging)
        else:
            _two_renames(staging, target)
        fsync_folder(target.parent)


def _two_renames(staging: Path, target: Path) -> None:
    previous = previous_path(target)
    try:
        target.rename(previous)
        staging.rename(target)
    except BaseException:  # Ctrl-C too: whatever happens, a bundle is there
        if previous.exists() and not target.exists():
            previous.rename(target)
        raise
    fsync_folder(target.parent)
    _remove_old(previous)


def _remove_old(folder: Path) -> None:
    """Remove the bundle replaced; what resists is left to `recover`.

    The new bundle is in its place, so a failure here is not one of the export.
    """
    shutil.rmtree(folder, ignore_errors=True)


def recover(target: Path) -> None:
    """Finish or undo an interrupted swap; remove staging folders nobody fills.

    Raises:
        OSError: a folder cannot be renamed or removed.
    """
    if not target.parent.is_dir():
        return
    with folder_lock(target.parent):
        previous = previous_path(target)
        if previous.exists():
            if target.exists():
                shutil.rmtree(previous)
            else:
                previous.rename(target)
            fsync_folder(target.parent)
        for folder in _staging_folders(target):
            if _is_stale(folder):
                shutil.rmtree(folder)


def make_staging(target: Path) -> tuple[Path, int]:
    """Return a new locked folder beside `target` and the descriptor of its lock.

    Raises:
        OSError: it cannot be made.
    """
    with folder_lock(target.parent):
        staging = target.with_name(f".staging-{target.name}-{secrets.token_hex(8)}")
        staging.mkdir()
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        _try_lock(descriptor, fcntl.LOCK_EX)
    return staging, descriptor


def fsync_folder(folder: Path) -> None:
    """Have a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_replaceable(target: Path) -> bool:
    """Whether `target` is free, an empty folder or a bundle: nothing else is lost."""
    if target.is_symlink():
        return False
    if not target.exists():
        return True
    return target.is_dir() and (
        (target / MANIFEST).is_file() or next(target.iterdir(), None) is None
    )


def require_replaceable(target: Path, option: str = "--output-dir") -> None:
    """Return when a bundle may be published at `target`, which `option` names.

    Raises:
        UsageError: something else stands there.
    """
    if not is_replaceable(target):
        raise UsageError(
            f"{target} exists and is not a bundle; nothing is replaced.",
            cure=f"Choose another {option}, or move it away.",
        )


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from publishing in `folder` meanwhile, if it has locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _try_lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, operation: int) -> bool:
    """Lock; return False where the file system cannot or another one holds it."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _staging_folders(target: Path) -> list[Path]:
    pattern = re.compile(rf"\.staging-{re.escape(target.name)}-[0-9a-f]{{16}}")
    return [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]


def _is_stale(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # its own process has just removed it
        return False
    try:
        return _try_lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
