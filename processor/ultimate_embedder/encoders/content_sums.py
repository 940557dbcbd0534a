"""The SHA-256 of a model's files, each of which is read once a process.

A file counts as the same while its place, its size and its times are: not even a copy
that takes over the time of writing (`cp -p`) keeps the time of change.
"""

from __future__ import annotations

import hashlib
import time
from functools import lru_cache
from pathlib import Path

from ..errors import ModelNotAvailable

_NS = 10**9
_COARSEST_CLOCK_NS = 2 * _NS  # file systems tell times in steps, of 2 s at most


def folder_sha256(folder: Path) -> str:
    """Return what tells a local model from others: one sum of all names and contents.

    Hidden files, as a clone or a download keeps them, are no part of a model.

    Raises:
        ModelNotAvailable: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{file_sha256(path)} {inside.as_posix()}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        ModelNotAvailable: it cannot be read.
    """
    try:
        found = path.stat()
        if time.time_ns() - found.st_ctime_ns < _COARSEST_CLOCK_NS:
            return _read(path)  # what is written next may bear the same times
        state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return _read_once(path, (found.st_dev, found.st_ino, *state))
    except OSError as error:
        raise ModelNotAvailable(
            f"{path} cannot be read: {error.strerror or error}.",
            cure="Mend its permissions, or copy the model anew.",
        ) from error


@lru_cache(maxsize=1024)
def _read_once(path: Path, _state: tuple[int, ...]) -> str:
    return _read(path)


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
