"""Room for a run's files, asked for before the work rather than missed in its middle.

The estimate leans upwards: measured bundles come out below it.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .config import GIB, Export
from .errors import OutputError, UsageError

_FLOAT_BYTES = 4
_FLOAT_TEXT_BYTES = 13  # -0.012345678 and its comma
_ROW_BYTES = 400  # ids, checksums and JSON keys of one chunk, in all files
_SPARSE_ROW_BYTES = 2500  # about 100 terms as JSON, twice, and as postings
_TOKEN_BYTES_A_BYTE = 1.5  # 4 bytes a token, and tokens of code are short

RESERVE_BYTES = 64 * 2**20
"""What is asked for beside the estimates of a run."""


def estimate_bundle_bytes(
    *,
    chunk_bytes: int,
    chunks: int,
    dimensions: Sequence[int],
    sparse_models: int,
    exports: Sequence[Export],
    attention: int = 0,
) -> int:
    """Return what one collection needs on disk while it is made, in bytes.

    `chunk_bytes` is the size of its chunk files, `dimensions` the width of each dense
    model, `attention` how many of them leave their attention. What is kept for later
    runs is counted beside the bundle: texts, token ids, attention and vectors.
    """
    width = sum(dimensions)
    vectors = chunks * width * _FLOAT_BYTES
    copies = 1 + ("npy" in exports) + ("faiss" in exports)
    texts = chunk_bytes
    if "jsonl" in exports:
        texts += chunk_bytes + chunks * width * _FLOAT_TEXT_BYTES
    rows = chunks * (_ROW_BYTES + sparse_models * _SPARSE_ROW_BYTES)
    tokens = int(chunk_bytes * _TOKEN_BYTES_A_BYTE) * (len(dimensions) + attention)
    return vectors * copies + texts + tokens + rows


def require_free_space(directory: Path, needed_bytes: int) -> None:
    """Return when `directory`, or the nearest parent that exists, has the room.

    Raises:
        OutputError: it has not, with both figures.
    """
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"Not enough disk space for {directory}: about "
            f"{gib(needed_bytes)} are needed, {gib(free_bytes)} are free.",
            cure="Free some, or choose another --output-dir.",
        )


def require_writable(directory: Path) -> None:
    """Make `directory` if need be and return when a file can be made in it.

    Raises:
        UsageError: it cannot, and why.
        OutputError: the disk is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"No space left for anything in {directory}.",
                cure="Free some, then run the same command.",
            ) from error
        raise UsageError(
            f"The output folder {directory} cannot be written to: "
            f"{error.strerror or error}.",
            cure="Choose another one with --output-dir, or mend its permissions.",
        ) from error


def gib(size_bytes: int) -> str:
    """Return bytes as GiB for a person: `12 GiB`, `0.05 GiB`."""
    figure = size_bytes / GIB
    digits = 2 if figure < 10 else 1
    return f"{figure:,.{digits}f}".rstrip("0").rstrip(".") + " GiB"
