"""JSON lines by number, out of a memory-mapped file."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..errors import BundleError
from ..export.layout import repair_cure
from ..records import Int64Array

_BLOCK_BYTES = 16 * 2**20
_NEWLINE = ord("\n")


class JsonLines:
    """A file of JSON lines. Where each line ends is looked up at the first access.

    May be read by several threads at once. Opening reads nothing.

    Raises:
        BundleError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._ends: Int64Array | None = None
        try:
            with path.open("rb") as file:
                empty = path.stat().st_size == 0
                self._bytes: mmap.mmap | bytes = (
                    b"" if empty else mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                )
        except OSError as error:
            raise BundleError(
                f"{path} cannot be read: {error.strerror}.",
                cure=repair_cure(path.parent),
            ) from error

    def __len__(self) -> int:
        return len(self._line_ends())

    def __getitem__(self, number: int) -> Any:
        ends = self._line_ends()
        if not 0 <= number < len(ends):
            raise IndexError(number)
        start = int(ends[number - 1]) + 1 if number else 0
        return self._parsed(number, self._bytes[start : int(ends[number])])

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def text(self, number: int, key: str) -> str:
        """Return a field of a line that has to hold text.

        Raises:
            BundleError: there is no such line or field, or it holds something else.
        """
        try:
            found = self[number][key]
        except (IndexError, KeyError, TypeError) as error:
            raise self._no_text(number, key) from error
        if not isinstance(found, str):
            raise self._no_text(number, key)
        return found

    def _no_text(self, number: int, key: str) -> BundleError:
        return BundleError(
            f"{self.path.name} has no {key} in line {number + 1}.",
            cure=repair_cure(self.path.parent),
        )

    def _parsed(self, number: int, line: bytes) -> Any:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BundleError(
                f"Line {number + 1} of {self.path.name} is no JSON: {error}.",
                cure=repair_cure(self.path.parent),
            ) from error

    def _line_ends(self) -> Int64Array:
        """Return the offset of each line's end; the last may lack its newline."""
        with self._lock:
            if self._ends is None:
                self._ends = _line_ends(self._bytes)
            return self._ends


def _line_ends(content: mmap.mmap | bytes) -> Int64Array:
    parts = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(content), _BLOCK_BYTES):
        block = np.frombuffer(content[start : start + _BLOCK_BYTES], dtype=np.uint8)
        parts.append(np.flatnonzero(block == _NEWLINE) + start)
    ends = np.concatenate(parts)
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        ends = np.append(ends, np.int64(len(content)))
    return ends
