"""What an earlier pass over other texts left that this one need not compute again.

A pass folder says which text stood in each of its rows. Where the settings are the same
and a text came before, its vectors are copied. The files of the new pass are made in a
folder beside the old one and take its place when they are on the disk: whatever
interrupts, one of the two is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import UNREADABLE_ARRAY, OutputError
from ..intake.pieces import Pieces
from ..ledger import BatchRecord
from ..planning import BatchPlan
from ..records import Int64Array
from ..workers.batch_encoder import FLOAT32_BYTES, write_at, write_vectors
from ..workers.jobs import Output
from .kept_outputs import KeptOutput

_HASH_BYTES = 32
_STATE = "pass.json"
_ROWS = "rows.npz"
_ROWS_A_COPY = 4096
_UNREADABLE = (*UNREADABLE_ARRAY, KeyError, BadZipFile, NotImplementedError)

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
    but the texts and what follows from them. `facts` are those settings by name.
    """

    fingerprints: Mapping[str, str]
    settings: Mapping[str, str]
    facts: Mapping[str, Mapping[str, object]] = field(
        default_factory=dict, compare=False
    )

    def write(self, folder: Path) -> None:
        """Put the state on the disk."""
        content = {
            "fingerprints": dict(self.fingerprints),
            "settings": dict(self.settings),
            "facts": {output: dict(facts) for output, facts in self.facts.items()},
        }
        with (folder / _STATE).open("wb") as stream:
            stream.write(orjson.dumps(content))
            _sync(stream)

    @classmethod
    def read(cls, folder: Path) -> PassState:
        """Return what the folder says: nothing where it says nothing readable."""
        try:
            found = orjson.loads((folder / _STATE).read_bytes())
            return cls(
                dict(found["fingerprints"]),
                dict(found["settings"]),
                {output: dict(facts) for output, facts in found["facts"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
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


@dataclass(frozen=True, slots=True)
class Taken:
    """Pieces that were copied, not computed; `numbers` ascend, `digest` is theirs."""

    numbers: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    digest: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    def is_whole(self, kept: KeptOutput) -> bool:
        """Say whether the bytes are those that were copied."""
        return not len(self) or kept.digest(self.numbers) == self.digest


def save_taken(folder: Path, output: Output, fingerprint: str, taken: Taken) -> None:
    """Note which pieces of a pass were copied; they hold for that fingerprint alone."""
    with (folder / _taken_name(output)).open("wb") as stream:
        np.savez(
            stream,
            taken=taken.numbers,
            digest=np.array(taken.digest),
            fingerprint=np.array(fingerprint),
        )
        _sync(stream)


def read_taken(folder: Path, output: Output, fingerprint: str) -> Taken:
    """Return the pieces that were copied for a pass: often none."""
    try:
        path = folder / _taken_name(output)
        with path.open("rb") as stream, np.load(stream) as stored:
            if str(stored["fingerprint"]) == fingerprint:
                return Taken(stored["taken"], str(stored["digest"]))
    except _UNREADABLE:
        pass  # none was written, or it was cut short: all is computed
    return Taken()


@dataclass(frozen=True, slots=True)
class RowPairs:
    """Rows of this pass, and where an earlier one has them: both int64 [pairs]."""

    here: Int64Array
    there: Int64Array


@dataclass(frozen=True, slots=True)
class EarlierOutput:
    """One output of an earlier pass: which batches and copies of it are whole."""

    kept: KeptOutput
    batches: tuple[int, ...]
    taken: Int64Array
    damaged: int  # batches, the copies counted as one


@dataclass(frozen=True, slots=True)
class EarlierPass:
    """A pass folder of other texts, with those of its outputs that can be read."""

    folder: Path
    texts: RowTexts
    pieces: Pieces
    plan: BatchPlan
    outputs: Mapping[Output, EarlierOutput]

    @classmethod
    def open(
        cls,
        folder: Path,
        state: PassState,
        records: Mapping[Output, Sequence[BatchRecord]],
    ) -> EarlierPass | None:
        """Return what a folder holds, None where it is not known what that is.

        `records` are the batches finished, by output. Their bytes are compared with
        their digests.
        """
        texts = read_row_texts(folder)
        if texts is None or not records:
            return None
        try:
            pieces = Pieces.open(folder / "pieces.npz")
            with (folder / "plan.npz").open("rb") as stream, np.load(stream) as stored:
                plan = BatchPlan(rows=stored["rows"], bounds=stored["bounds"])
        except _UNREADABLE:
            return None
        outputs = {}
        for output, finished in records.items():
            kept = KeptOutput.open(folder, output, pieces, texts.offsets)
            if kept is not None:
                copies = read_taken(folder, output, state.fingerprints[output])
                outputs[output] = _whole_parts(kept, plan, finished, copies)
        return cls(folder, texts, pieces, plan, outputs)

    def rows_to_take(self, output: Output, texts: RowTexts, pieces: Pieces) -> RowPairs:
        """Return the rows of equal text whose output is whole here."""
        nothing = np.zeros(0, dtype=np.int64)
        found = self.outputs.get(output)
        if found is None:
            return RowPairs(nothing, nothing)
        whole = finished_rows(self.pieces, self.plan, found.batches, found.taken)
        here, there = texts.matches(self.texts)
        alike = _windows_each(pieces, here) == _windows_each(self.pieces, there)
        kept = whole[there] & alike
        return RowPairs(here[kept], there[kept])

    def copy(
        self,
        output: Output,
        rows: RowPairs,
        pieces: Pieces,
        texts: RowTexts,
        folder: Path,
    ) -> Int64Array:
        """Copy an output of some rows into the files of another folder.

        Returns the pieces that are done with it, ascending.
        """
        if output == "attention":
            self._copy_attention(rows, texts, folder)
        else:
            self._copy_vectors("vectors.npy", rows, folder)
            windows = RowPairs(
                _windows_of(pieces, rows.here), _windows_of(self.pieces, rows.there)
            )
            if len(windows.here):
                self._copy_vectors("windows.npy", windows, folder)
        return pieces_of(pieces, rows.here)

    def _copy_vectors(self, name: str, rows: RowPairs, folder: Path) -> None:
        vectors = np.load(self.folder / name, mmap_mode="r")
        for start in range(0, len(rows.here), _ROWS_A_COPY):
            span = slice(start, start + _ROWS_A_COPY)
            write_vectors(folder / name, rows.here[span], vectors[rows.there[span]])

    def _copy_attention(self, rows: RowPairs, texts: RowTexts, folder: Path) -> None:
        name = "attention.f32"
        weights = np.memmap(self.folder / name, np.float32, mode="r")
        starts, stops = self.texts.offsets[:-1], self.texts.offsets[1:]
        for start in range(0, len(rows.here), _ROWS_A_COPY):
            span = slice(start, start + _ROWS_A_COPY)
            write_at(
                folder / name,
                [
                    (int(texts.offsets[row]) * FLOAT32_BYTES, weights[first:last])
                    for row, first, last in zip(
                        rows.here[span],
                        starts[rows.there[span]],
                        stops[rows.there[span]],
                        strict=True,
                    )
                ],
            )


def _whole_parts(
    kept: KeptOutput, plan: BatchPlan, finished: Sequence[BatchRecord], copies: Taken
) -> EarlierOutput:
    damaged = set(kept.damaged(plan, finished))
    lost = not copies.is_whole(kept)
    return EarlierOutput(
        kept=kept,
        batches=tuple(one.batch for one in finished if one.batch not in damaged),
        taken=Taken().numbers if lost else copies.numbers,
        damaged=len(damaged) + lost,
    )


def restore(folder: Path) -> None:
    """Undo a replacement that was interrupted between its two renames."""
    old = folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)


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
        _sync_folder(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be replaced: {error.strerror or error}.",
            cure="Mend its permissions or make room, then run the same command.",
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def _windows_each(pieces: Pieces, rows: Int64Array) -> Int64Array:
    """Return how many windows each row has, int64 [rows]."""
    first = np.searchsorted(pieces.window_rows, rows, side="left")
    return np.searchsorted(pieces.window_rows, rows, side="right") - first


def _windows_of(pieces: Pieces, rows: Int64Array) -> Int64Array:
    """Return the windows of some rows, row after row, int64 [windows]."""
    first = np.searchsorted(pieces.window_rows, rows, side="left")
    counts = _windows_each(pieces, rows)
    if not counts.sum():
        return np.zeros(0, dtype=np.int64)
    spans = [np.arange(at, at + n) for at, n in zip(first, counts, strict=True) if n]
    return np.concatenate(spans).astype(np.int64)


def _packed(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(hashes).view(f"V{_HASH_BYTES}").ravel()


def _taken_name(output: Output) -> str:
    return f"taken-{output}.npz"


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
