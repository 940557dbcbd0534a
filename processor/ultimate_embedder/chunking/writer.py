"""Files written whole or not at all: a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from ..errors import OutputError
from .document import Record


def chunk_file(records: Sequence[Record]) -> bytes:
    """Return the content of a chunk file, a record a line: same records, same bytes."""
    return b"[\n" + b",\n".join(map(orjson.dumps, records)) + b"\n]\n"


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
