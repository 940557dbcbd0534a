"""What the operating system refuses, said with its cure."""

from __future__ import annotations

import errno
from pathlib import Path

from ..errors import OutOfMemory, OutputError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def output_error(
    error: OSError, path: Path, elsewhere: str = "choose another --output-dir"
) -> OutputError | OutOfMemory:
    """Return the error that says what to do about a refused write to `path`.

    `elsewhere` is how the user names another place.
    """
    if error.errno == errno.ENOMEM:  # a file could not be mapped
        return OutOfMemory()
    place = error.filename or path
    if error.errno in _NO_SPACE:
        return OutputError(
            f"No space left while writing {place}.",
            cure="Free space on that disk and run the same command again.",
        )
    if error.errno in _NOT_ALLOWED:
        return OutputError(
            f"Not allowed to write {place}: {error.strerror}.",
            cure=f"Change its permissions or {elsewhere}.",
        )
    return OutputError(
        f"Writing {place} failed: {error.strerror or error}.",
        cure="Mend the cause and run the same command again.",
    )
