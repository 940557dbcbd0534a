"""Sparse matrices in files: written by a stream, read through memory maps.

A matrix is a folder of `indptr.npy`, `indices.npy`, `values.npy` and `facts.json`,
which says what it was made from. The folder appears by one rename at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..errors import UNREADABLE_ARRAY, BundleError
from ..records import SparseMatrix, SparseVector

FACTS_NAME = "facts.json"
_PARTIAL_SUFFIX = ".partial"


class ArrayWriter:
    """A one-dimensional `.npy` file that grows by appending.

    NumPy leaves room in the header for the length to be filled in at the end.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._length = 0
        self._file = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._length,),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, items: npt.ArrayLike) -> None:
        """Add items at the end, cast to the file's type."""
        array = np.ascontiguousarray(items, dtype=self._dtype)
        self._file.write(array.data)
        self._length += len(array)

    def close(self) -> None:
        """State the length in the header and close the file."""
        if self._file.closed:
            return
        start = self._file.tell() - self._length * self._dtype.itemsize
        self._file.seek(0)
        self._write_header()
        moved = self._file.tell() != start
        self._file.close()
        if moved:
            raise BundleError(f"The header of {self._file.name} outgrew its room.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class MatrixWriter:
    """Writes a matrix row by row, or by blocks of rows, into a folder."""

    def __init__(self, directory: Path, *, values: bool = True) -> None:
        self._indptr = ArrayWriter(directory / "indptr.npy", np.int64)
        self._indices = ArrayWriter(directory / "indices.npy", np.uint32)
        self._values = (
            ArrayWriter(directory / "values.npy", np.float32) if values else None
        )
        self._end = 0
        self._indptr.append([0])

    def append(self, vector: SparseVector) -> None:
        """Add one row."""
        if self._values is not None:
            self._values.append(vector.values)
        self.append_rows(np.array([0, len(vector)]), vector.indices)

    def extend(self, rows: SparseMatrix) -> None:
        """Add rows with their values."""
        if self._values is not None:
            self._values.append(rows.values)
        self.append_rows(rows.indptr, rows.indices)

    def append_rows(self, indptr: npt.ArrayLike, indices: npt.ArrayLike) -> None:
        """Add rows without their values; `indptr` counts from 0."""
        bounds = np.asarray(indptr, dtype=np.int64)
        self._indptr.append(bounds[1:] + self._end)
        self._indices.append(indices)
        self._end += int(bounds[-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in (self._indptr, self._indices, self._values):
            if writer is not None:
                writer.close()


def open_matrix(directory: Path) -> SparseMatrix:
    """Return the matrix of a folder, memory-mapped.

    Raises:
        BundleError: an array is missing or cut short, or they do not belong together.
    """
    try:
        indptr, indices, values = (
            np.load(directory / f"{name}.npy", mmap_mode="r")
            for name in ("indptr", "indices", "values")
        )
    except UNREADABLE_ARRAY as error:
        raise _damaged(directory) from error
    types = (indptr.dtype, indices.dtype, values.dtype)
    fits = types == (np.int64, np.uint32, np.float32) and len(indptr) > 0
    if not fits or not int(indptr[-1]) == len(indices) == len(values):
        raise _damaged(directory)
    # As plain views: a slice of a memmap object takes five times as long.
    return SparseMatrix(*map(np.asarray, (indptr, indices, values)))


def _damaged(directory: Path) -> BundleError:
    return BundleError(
        f"The sparse matrix in {directory} is damaged.",
        cure="Remove that folder and run again.",
    )


def holds(directory: Path, facts: Mapping[str, Any]) -> bool:
    """Say whether a folder is whole, byte for byte, and was made from `facts`."""
    found = _read_facts(directory)
    return (
        found is not None
        and found["facts"] == dict(facts)
        and not _damaged_files(directory, found["sums"])
    )


def why_not(directory: Path, facts: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return why a folder that is there does not hold, and whether it is damaged.

    None: it does, or there is none.
    """
    if not directory.exists():
        return None
    found = _read_facts(directory)
    if found is None:
        return "what an earlier run left cannot be read", True
    earlier = found["facts"]
    if changed := [name for name in facts if facts[name] != earlier.get(name)]:
        return f"{', '.join(changed)} changed", False
    if damaged := _damaged_files(directory, found["sums"]):
        return f"{', '.join(damaged)}: not what was written", True
    return None


def build_once(
    directory: Path,
    facts: Mapping[str, Any],
    build: Callable[[Path], Mapping[str, Any]],
    *,
    reuse: bool = True,
) -> Mapping[str, Any]:
    """Have `build` fill a folder unless one made from the same facts is there.

    `build` gets an empty folder and returns what it learnt, plain JSON values, which
    come back now and whenever the folder is found. An interrupted build leaves only a
    folder ending in `.partial`, which the next one removes.
    """
    if reuse and holds(directory, facts):
        kept: Mapping[str, Any] = _read_facts(directory)["learnt"]  # type: ignore[index]
        return kept
    partial = directory.with_name(directory.name + _PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    learnt = build(partial)
    sums = {}
    for path in sorted(partial.iterdir()):  # on the disk before what vouches for it
        with path.open("rb+") as stream:
            sums[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
    record = {"facts": dict(facts), "learnt": dict(learnt), "sums": sums}
    with (partial / FACTS_NAME).open("w", encoding="utf-8") as text:
        text.write(json.dumps(record, sort_keys=True))
        text.flush()
        os.fsync(text.fileno())
    if directory.exists():
        shutil.rmtree(directory)
    partial.rename(directory)
    return learnt


def _read_facts(directory: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((directory / FACTS_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None  # never finished, or damaged: both are built anew
    complete = isinstance(found, dict) and {"facts", "learnt", "sums"} <= found.keys()
    return found if complete else None


def _damaged_files(directory: Path, sums: Mapping[str, str]) -> list[str]:
    """Return the files that are gone or not what was written, by name."""
    damaged = []
    for name, expected in sums.items():
        try:
            with (directory / name).open("rb") as stream:
                whole = hashlib.file_digest(stream, "sha256").hexdigest() == expected
        except OSError:
            whole = False
        if not whole:
            damaged.append(name)
    return damaged
