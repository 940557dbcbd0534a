"""Inverted lists of a sparse matrix, in files that open at once.

A folder of `.npy` files: `terms`, `offsets`, `rows`, `values` and `statistics`. The
list of `terms[i]` is `rows[offsets[i]:offsets[i + 1]]`, ascending, with `values`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ..errors import UNREADABLE_ARRAY, BundleError
from ..records import Float32Array, Int64Array, SparseMatrix, UInt32Array

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]

_BLOCK_ENTRIES: Final = 1 << 20
_ZEROS: Final = bytes(1 << 20)
_CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_NAMES: Final = ("terms", "offsets", "rows", "values", "statistics")


def idf(documents: int, document_frequency: npt.ArrayLike) -> Float64Array:
    """Return ln(1 + (N - df + 1/2) / (df + 1/2)), as Qdrant's `modifier: idf`.

    N is the `population` of the postings.
    """
    frequency = np.asarray(document_frequency, dtype=np.float64)
    return np.log1p((documents - frequency + 0.5) / (frequency + 0.5))


@dataclass(frozen=True, slots=True)
class Postings:
    """Inverted lists, memory-mapped.

    Shapes: `terms` uint32 [t], ascending; `offsets` int64 [t + 1]; `rows` int32 [nnz];
    `values` float32 [nnz]. `documents` counts rows, `filled` those whose vector is not
    empty (None: all). `average_length` is None where it has no meaning.
    """

    terms: UInt32Array
    offsets: Int64Array
    rows: Int32Array
    values: Float32Array
    documents: int
    average_length: float | None
    filled: int | None = None

    @property
    def population(self) -> int:
        """N of the IDF: Qdrant counts the documents whose vector is not empty."""
        return self.documents if self.filled is None else self.filled

    @classmethod
    def open(cls, directory: Path) -> Postings:
        """Open a folder that `write_postings` made.

        Raises:
            BundleError: naming the file that is missing or does not fit.
        """
        arrays = {name: _open_array(directory, name) for name in _NAMES}
        statistics = arrays["statistics"]
        if len(statistics) != 3:
            raise BundleError(f"The postings in {directory} lack their statistics.")
        documents, filled, average = statistics.tolist()
        postings = cls(
            terms=arrays["terms"],
            offsets=arrays["offsets"],
            rows=arrays["rows"],
            values=arrays["values"],
            documents=int(documents),
            average_length=None if np.isnan(average) else average,
            filled=int(filled),
        )
        _check(postings, directory)
        return postings

    def document_frequency(self, terms: npt.ArrayLike) -> Int64Array:
        """Return in how many documents each term is: int64, 0 for unknown terms."""
        wanted = np.asarray(terms, dtype=np.uint32)
        places, known = self._places(wanted)
        frequency = np.zeros(len(wanted), dtype=np.int64)
        at = places[known]
        frequency[known] = self.offsets[at + 1] - self.offsets[at]
        return frequency

    def entries(self, term: int) -> tuple[Int32Array, Float32Array]:
        """Return the rows that hold a term, ascending, and its value in each."""
        places, known = self._places(np.array([term], dtype=np.uint32))
        if not known[0]:
            return self.rows[:0], self.values[:0]
        start, stop = self.offsets[places[0]], self.offsets[places[0] + 1]
        return self.rows[start:stop], self.values[start:stop]

    def _places(self, wanted: UInt32Array) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        places = np.searchsorted(self.terms, wanted).astype(np.int64)
        known = places < len(self.terms)
        known[known] = self.terms[places[known]] == wanted[known]
        return places, known


def term_frequencies(matrix: SparseMatrix) -> tuple[UInt32Array, Int64Array]:
    """Return the distinct terms of a matrix, ascending, and their document counts."""
    terms = np.empty(0, dtype=np.uint32)
    frequency = np.empty(0, dtype=np.int64)
    for start in range(0, len(matrix.indices), _BLOCK_ENTRIES):
        block, counts = np.unique(
            matrix.indices[start : start + _BLOCK_ENTRIES], return_counts=True
        )
        merged = np.union1d(terms, block)
        total = np.zeros(len(merged), dtype=np.int64)
        total[np.searchsorted(merged, terms)] += frequency
        total[np.searchsorted(merged, block)] += counts
        terms, frequency = merged, total
    return terms, frequency


def write_postings(
    matrix: SparseMatrix, directory: Path, *, average_length: float | None
) -> None:
    """Write the inverted lists of a matrix into a folder.

    A counting sort by term: document frequencies first, then each block of rows
    straight to its places in memory-mapped files. Memory: the terms and one block.

    Raises:
        OSError: there is no room, or the folder cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    terms, frequency = term_frequencies(matrix)
    offsets = np.zeros(len(terms) + 1, dtype=np.int64)
    np.cumsum(frequency, out=offsets[1:])
    _save(directory, "terms", terms)
    _save(directory, "offsets", offsets)
    average = np.nan if average_length is None else average_length
    filled = np.count_nonzero(np.diff(matrix.indptr))
    statistics = np.array([len(matrix), filled, average], dtype=np.float64)
    _save(directory, "statistics", statistics)
    entries = len(matrix.indices)
    rows = _new_array(directory, "rows", np.int32, entries)
    values = _new_array(directory, "values", np.float32, entries)
    following = offsets[:-1].copy()
    for first_row, start, stop in _blocks(matrix.indptr):
        slots = np.searchsorted(terms, matrix.indices[start:stop])
        order = np.argsort(slots, kind="stable")
        sorted_slots = slots[order]
        heads = np.flatnonzero(np.diff(sorted_slots, prepend=-1))
        sizes = np.diff(heads, append=len(sorted_slots))
        rank = np.arange(len(sorted_slots)) - np.repeat(heads, sizes)
        places = following[sorted_slots] + rank
        entry_rows = _entry_rows(matrix.indptr, first_row, start, stop)
        rows[places] = entry_rows[order]
        values[places] = matrix.values[start:stop][order]
        following[sorted_slots[heads]] += sizes
    rows.flush()
    values.flush()


def _blocks(indptr: Int64Array) -> Iterator[tuple[int, int, int]]:
    """Yield (a row at or before the block, first entry, end) of even blocks."""
    for start in range(0, int(indptr[-1]), _BLOCK_ENTRIES):
        row = int(np.searchsorted(indptr, start, side="right")) - 1
        yield row, start, min(start + _BLOCK_ENTRIES, int(indptr[-1]))


def _entry_rows(
    indptr: Int64Array, first_row: int, start: int, stop: int
) -> Int32Array:
    """Return the row of each entry from `start` to `stop`."""
    last_row = int(np.searchsorted(indptr, stop, side="left"))
    bounds = np.clip(indptr[first_row : last_row + 1], start, stop)
    numbers = np.arange(first_row, last_row, dtype=np.int32)
    return np.repeat(numbers, np.diff(bounds))


def _save(directory: Path, name: str, array: npt.NDArray[Any]) -> None:
    np.save(directory / f"{name}.npy", array)


def _new_array(
    directory: Path, name: str, dtype: npt.DTypeLike, length: int
) -> np.memmap[Any, np.dtype[Any]]:
    path = directory / f"{name}.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(length,))
    if length:
        _reserve(path, array.offset, array.nbytes)
    return array


def _reserve(path: Path, start: int, size: int) -> None:
    """Have the disk's room for a part of a file, zeros still, before a map fills it.

    A page of a map that has no room ends the process (SIGBUS); here it is an OSError.
    """
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), start, size)
        except AttributeError:  # macOS
            _write_zeros(stream, start, size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
            _write_zeros(stream, start, size)


def _write_zeros(stream: BinaryIO, start: int, size: int) -> None:
    stream.seek(start)
    for done in range(0, size, len(_ZEROS)):
        stream.write(_ZEROS[: size - done])


def _open_array(directory: Path, name: str) -> npt.NDArray[Any]:
    path = directory / f"{name}.npy"
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise BundleError(
            f"The postings file {path} is missing.",
            cure="Rebuild the bundle or restore a copy.",
        ) from None
    except UNREADABLE_ARRAY as error:
        raise BundleError(f"The postings file {path} is damaged: {error}.") from error
    if array.ndim != 1:
        raise BundleError(f"The postings file {path} is not a list.")
    return array


def _check(postings: Postings, directory: Path) -> None:
    """Refuse arrays that do not belong together."""
    types = {
        "terms": np.uint32,
        "offsets": np.int64,
        "rows": np.int32,
        "values": np.float32,
    }
    wrong = [
        name for name, dtype in types.items() if getattr(postings, name).dtype != dtype
    ]
    if wrong:
        raise BundleError(f"Postings of a wrong type in {directory}: {wrong[0]}.npy.")
    offsets, entries = postings.offsets, len(postings.rows)
    fits = (
        len(offsets) == len(postings.terms) + 1
        and entries == len(postings.values)
        and int(offsets[0]) == 0
        and int(offsets[-1]) == entries
        and bool((np.diff(offsets) > 0).all())
        and bool((postings.terms[1:] > postings.terms[:-1]).all())
    )
    if not fits:
        raise BundleError(
            f"The postings in {directory} contradict one another.",
            cure="Rebuild the bundle or restore a copy.",
        )
