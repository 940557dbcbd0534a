"""What an earlier pass over other texts left that this one need not compute again.

A pass folder says which text stood in each of its rows. Where the settings are the same
and a text came before, its vectors are copied. The files of the new pass are made in a
folder beside the old one and take its place when they are on the disk: whatever
interrupts, one of the two is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import OutputError
from ..intake.pieces import Pieces
from ..planning import BatchPlan
from ..records import Float32Array, Int64Array
from ..workers.jobs import Output

_HASH_BYTES = 32
_STATE = "pass.json"
_ROWS = "rows.npz"
_ROWS_A_COPY = 4096
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowTexts:
    """Which text stands in each row, and where its tokens begin.

    Shapes: `hashes` uint8 [rows, 32], SHA-256 of the texts; `offsets` int64 [rows + 1].
    """

    hashes: npt.NDArray[np.uint8]
    offsets: Int64Array

    def matches(self, earlier: RowTexts) -> tuple[Int64Array, Int64Array]:
        """Return rows of this one and the rows of equal text in an earlier one.

        Of rows with equal text the first stands for all, on both sides.
        """
        mine, first = np.unique(_packed(self.hashes), return_index=True)
        other, where = np.unique(_packed(earlier.hashes), return_index=True)
        _, here, there = np.intersect1d(mine, other, return_indices=True)
        return first[here].astype(np.int64), where[there].astype(np.int64)


@dataclass(frozen=True, slots=True)
class PassState:
    """What a pass folder says of itself.

    `fingerprints` cover everything that an output depends on, `settings` all of that
    but the texts and what follows from them.
    """

    fingerprints: Mapping[str, str]
    settings: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Put the state on the disk."""
        content = {
            "fingerprints": dict(self.fingerprints),
            "settings": dict(self.settings),
        }
        with (folder / _STATE).open("wb") as stream:
            stream.write(orjson.dumps(content))
            _sync(stream)

    @classmethod
    def read(cls, folder: Path) -> PassState:
        """Return what the folder says: nothing where it says nothing readable."""
        try:
            found = orjson.loads((folder / _STATE).read_bytes())
            return cls(dict(found["fingerprints"]), dict(found["settings"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls({}, {})  # none, or cut short: nothing is taken over from it


def save_row_texts(folder: Path, texts: RowTexts) -> None:
    """Write which texts stand in the rows of a pass."""
    with (folder / _ROWS).open("wb") as stream:
        np.savez(stream, hashes=texts.hashes, offsets=texts.offsets)
        _sync(stream)


def read_row_texts(folder: Path) -> RowTexts | None:
    """Return which texts stand in the rows of a pass, None where that is not known."""
    try:
        with (folder / _ROWS).open("rb") as stream, np.load(stream) as stored:
            return RowTexts(stored["hashes"], stored["offsets"])
    except _UNREADABLE:
        return None


def finished_rows(
    pieces: Pieces, plan: BatchPlan, batches: Iterable[int], taken: Int64Array
) -> Mask:
    """Return for each row whether all of its pieces are done: bool [rows].

    `batches` are the finished ones; `taken` are pieces that were copied, not computed.
    A row without a piece of its own, one of repeated text, is not done.
    """
    done = np.zeros(pieces.rows + pieces.windows, dtype=bool)
    done[taken] = True
    for batch in batches:
        done[plan.batch(batch)] = True
    rows = done[: pieces.rows].copy()
    rows[pieces.long_rows] = True
    rows[pieces.window_rows[~done[pieces.rows :]]] = False
    return rows


def pieces_of(pieces: Pieces, rows: Int64Array) -> Int64Array:
    """Return the pieces that some rows come to, ascending, int64 [pieces]."""
    whole = np.setdiff1d(rows, pieces.window_rows)
    windows = np.flatnonzero(np.isin(pieces.window_rows, rows))
    return np.concatenate((whole, pieces.rows + windows)).astype(np.int64)


def save_taken(
    folder: Path, output: Output, fingerprint: str, taken: Int64Array
) -> None:
    """Note which pieces of a pass were copied; they hold for that fingerprint alone."""
    with (folder / _taken_name(output)).open("wb") as stream:
        np.savez(stream, taken=taken, fingerprint=np.array(fingerprint))
        _sync(stream)


def read_taken(folder: Path, output: Output, fingerprint: str) -> Int64Array:
    """Return the pieces that were copied for a pass, ascending: often none."""
    try:
        path = folder / _taken_name(output)
        with path.open("rb") as stream, np.load(stream) as stored:
            if str(stored["fingerprint"]) == fingerprint:
                found: Int64Array = stored["taken"]
                return found
    except _UNREADABLE:
        pass  # none was written, or it was cut short: all is computed
    return np.zeros(0, dtype=np.int64)


def copy_rows(
    source: Float32Array, target: Float32Array, here: Int64Array, there: Int64Array
) -> None:
    """Copy rows `there` of the source to rows `here` of the target, both [rows, n]."""
    for start in range(0, len(here), _ROWS_A_COPY):
        span = slice(start, start + _ROWS_A_COPY)
        target[here[span]] = source[there[span]]


def copy_spans(
    source: Float32Array,
    target: Float32Array,
    here: Iterable[tuple[int, int]],
    there: Iterable[tuple[int, int]],
) -> None:
    """Copy spans (start, stop) of a flat array to spans of equal length in another."""
    for (start, stop), (begin, end) in zip(here, there, strict=True):
        target[start:stop] = source[begin:end]


def take_place(new: Path, folder: Path) -> None:
    """Put a finished pass folder in the place of the old one.

    Raises:
        OutputError: it cannot be moved.
    """
    old = folder.with_name(f"{folder.name}.old")
    try:
        for path in new.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be replaced: {error.strerror or error}.",
            cure="Mend its permissions or make room, then run the same command.",
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def _packed(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(hashes).view(f"V{_HASH_BYTES}").ravel()


def _taken_name(output: Output) -> str:
    return f"taken-{output}.npz"


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
