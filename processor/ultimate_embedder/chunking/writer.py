"""Files written whole or not at all: a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from ..errors import OutputError
from .document import Record


def write_chunks(path: Path, records: Sequence[Record]) -> int:
    """Write a chunk file; return its size in bytes. Same records, same bytes.

    Raises:
        OutputError: it cannot be written.
    """
    content = orjson.dumps(records, option=orjson.OPT_INDENT_2) + b"\n"
    write_whole(path, content)
    return len(content)


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the target, then rename.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".", suffix=".partial", delete=False
        ) as stream:
            temporary = Path(stream.name)
            stream.write(content)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"Writing {path} failed: {error.strerror}.",
            cure="Free space or permissions, then run the same command again.",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
