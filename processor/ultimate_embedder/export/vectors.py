"""Dense vectors in `.npy` files: written in blocks, read memory-mapped."""

from __future__ import annotations

import io
import mmap
import re
from pathlib import Path

import numpy as np

from ..errors import BundleError
from ..records import Float32Array
from .checksums import HashedFile

BLOCK_ROWS = 1024

_PREFIX = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(  # NumPy's own parser evaluates and warns: not for damaged files
    rb"\{'descr': '<f4', 'fortran_order': False, "
    rb"'shape': \(([0-9]{1,18}), ([0-9]{1,18})\), \} *\n"
)


def header(rows: int, dimension: int) -> bytes:
    """Return the bytes before the data: npy format 1.0, little-endian float32."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    )
    return stream.getvalue()


def checked_block(key: str, vectors: Float32Array, start: int) -> Float32Array:
    """Return rows from `start` on, float32 [at most BLOCK_ROWS, dim], in memory.

    Raises:
        BundleError: a value is not finite; names the model and the row.
    """
    block = np.array(vectors[start : start + BLOCK_ROWS], dtype="<f4", order="C")
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        raise BundleError(
            f"The vector of model '{key}' in row {start + int(finite.argmin())} is not "
            "finite.",
            cure="Compute this model anew: --fresh.",
        )
    return block


def write_vectors(path: Path, key: str, vectors: Float32Array) -> HashedFile:
    """Write float32 [rows, dim] and return the closed file with its digest.

    Raises:
        BundleError: a value is not finite.
        OSError: the file cannot be written.
    """
    rows, dimension = vectors.shape
    with HashedFile(path) as file:
        file.write(header(rows, dimension))
        for start in range(0, rows, BLOCK_ROWS):
            file.write(checked_block(key, vectors, start).data.cast("B"))
    return file


def open_vectors(path: Path) -> Float32Array:
    """Return the vectors of a bundle, float32 [rows, dim], read-only, memory-mapped.

    Raises:
        BundleError: the file is not a whole float32 matrix in the npy format.
    """
    try:
        with path.open("rb") as stream:
            return _map_vectors(stream)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path.name} is not a whole .npy file of float32 vectors: {error}.",
            cure="Restore a copy of the bundle or build it anew.",
        ) from error


def _map_vectors(stream: io.BufferedReader) -> Float32Array:
    prefix = stream.read(len(_PREFIX) + 2)
    if prefix[: len(_PREFIX)] != _PREFIX:
        raise ValueError("not format version 1.0")
    text = stream.read(int.from_bytes(prefix[len(_PREFIX) :], "little"))
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError(f"its header is {text[:80].strip()!r}")
    shape = (int(match[1]), int(match[2]))
    offset = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    expected = offset + shape[0] * shape[1] * 4
    if size != expected:
        raise ValueError(f"{size} bytes instead of {expected}")
    if size == offset:
        return np.zeros(shape, dtype=np.float32)
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype=np.float32, offset=offset).reshape(shape)
