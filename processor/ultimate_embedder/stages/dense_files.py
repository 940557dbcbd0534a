"""The files of a dense pass: made, found again, or filled from an earlier pass.

A pass folder holds what its batches write, the plan they follow and, in `pass.json`,
which pass it is. The ledger forgets an earlier pass before its files are touched, so a
mark never stands for bytes that are gone.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import orjson

from ..errors import OutputError
from ..hardware import this_machine
from ..intake.pieces import Pieces
from ..intake.token_table import TokenTable
from ..ledger import BatchRecord, Ledger
from ..libraries import GPU_KERNELS_REVISION, installed_versions
from ..planning import BatchPlan
from ..records import Int64Array
from ..workers.batch_encoder import (
    FLOAT32_BYTES,
    create_attention,
    create_vectors,
    save_plan,
)
from ..workers.jobs import BatchRequest, EncodeJob, Output
from .dense_records import DenseTask
from .earlier_pass import (
    EarlierPass,
    Mask,
    PassState,
    RowTexts,
    Taken,
    read_taken,
    restore,
    save_row_texts,
    save_taken,
    take_place,
)
from .kept_outputs import KeptOutput

_LIBRARIES = ("torch", "transformers", "tokenizers")
_BYTES_VERSION = 2  # raise it when the same settings come to give other bytes
_OUTPUTS: tuple[Output, ...] = get_args(Output)
_GONE = "files that an earlier run left are gone, cut short or unreadable"


@dataclass(frozen=True, slots=True)
class PassInput:
    """What a pass goes over; `first` is each row's first row of the same text."""

    tokens: TokenTable
    pieces: Pieces
    plan: BatchPlan
    first: Int64Array

    def texts(self, numbers: Int64Array | None = None) -> int:
        """Return how many texts begin in these pieces, or in all of them."""
        numbers = self.plan.rows if numbers is None else numbers
        return self.pieces.texts(numbers, self.tokens.frame)

    def truncated_tokens(self, numbers: Int64Array) -> int:
        """Return how many tokens the texts of pieces lost: none in windows."""
        rows = numbers[numbers < self.pieces.rows]
        kept = self.tokens.lengths_of(rows)
        return int((self.tokens.full_lengths[rows] - kept).sum())

    @property
    def chunks_in_windows(self) -> int:
        """Rows longer than the window, those of equal text each counted."""
        return int(np.isin(self.first, self.pieces.long_rows).sum())


@dataclass(frozen=True, slots=True)
class Redone:
    """Why something that an earlier run left is not used."""

    reason: str
    damaged: bool = False


class PassFiles:
    """One pass's folder in a collection's work folder, and its marks in the ledger."""

    def __init__(
        self, work_dir: Path, ledger: Ledger, task: DenseTask, over: PassInput
    ) -> None:
        """Name the files; nothing is made yet."""
        self._folder = work_dir / f"dense-{task.model.name}"
        self._ledger, self._task, self._over = ledger, task, over
        self._texts = RowTexts(task.text_hashes, np.asarray(over.tokens.offsets))
        facts = {output: _facts(task, output) for output in _OUTPUTS}
        self.state = PassState(
            {output: _digest(facts[output] | _content(task, over)) for output in facts},
            {output: _digest(facts[output]) for output in facts},
            {output: facts[output] for output in facts},
        )
        self._taken: dict[Output, Int64Array] = {}
        self._kept: dict[Output, KeptOutput] = {}
        self._redone: list[Redone] = []

    @property
    def attention_fingerprint(self) -> str:
        """What the attention's bytes depend on, hashed."""
        return self.state.fingerprints["attention"]

    @property
    def redone(self) -> tuple[Redone, ...]:
        """What `prepare` did not take over, each reason once."""
        return tuple(dict.fromkeys(self._redone))

    def prepare(self) -> EncodeJob:
        """Make the folder, or take up what is there; return the job over its files.

        Raises:
            OutputError: the ledger or a file cannot be written.
        """
        restore(self._folder)
        begins = PassState.read(self._folder) != self.state
        if begins:
            self._begin()
        for output in _OUTPUTS:
            known = self._ledger.open_pass(
                self._name(output), self.state.fingerprints[output]
            )
            if not (known or begins) and output in self._task.outputs:
                self._redo("the ledger knows no batch of it", damaged=True)
            self._take_up(output)
        save_plan(self._folder / "plan.npz", self._over.plan)
        self._over.pieces.save(self._folder / "pieces.npz")
        return self._job()

    def requests(self) -> list[BatchRequest]:
        """Return what lacks an output, in plan order: batches or rows of them."""
        wanted = self._task.outputs
        done = {
            output: {record.batch for record in self._finished(output)}
            for output in wanted
        }
        taken = {output: self._mask(self._taken[output]) for output in wanted}
        found = []
        for batch in range(len(self._over.plan)):
            lacking = {o: taken[o] for o in wanted if batch not in done[o]}
            if request := self._request(batch, lacking):
                found.append(request)
        return found

    def records(self) -> list[BatchRecord]:
        """Return what the batches cost, in the order of their numbers."""
        return self._finished(self._task.outputs[0])

    def mark(self, output: Output, record: BatchRecord) -> None:
        """Note that a batch's output is on the disk, with the digest of its bytes."""
        if output not in self._kept:
            self._kept[output] = self._open(output)
        digest = self._kept[output].digest(self._over.plan.batch(record.batch))
        self._ledger.mark(self._name(output), replace(record, digest=digest))

    def pieces(self, request: BatchRequest) -> Int64Array:
        """Return the pieces that a request is for."""
        batch = self._over.plan.batch(request.batch)
        return batch[request.rows(len(batch))]

    def _mask(self, numbers: Int64Array) -> Mask:
        """Return for each piece whether it is one of these: bool [pieces]."""
        mask = np.zeros(self._over.pieces.rows + self._over.pieces.windows, dtype=bool)
        mask[numbers] = True
        return mask

    def _request(
        self, batch: int, lacking: Mapping[Output, Mask]
    ) -> BatchRequest | None:
        """Return what outputs lack of a batch; `lacking` says what was taken over."""
        pieces = self._over.plan.batch(batch)
        places = {o: np.flatnonzero(~taken[pieces]) for o, taken in lacking.items()}
        outputs = tuple(output for output in places if len(places[output]))
        if not outputs:
            return None
        parts: dict[Output, tuple[int, ...]] = {
            output: tuple(places[output].tolist())
            for output in outputs
            if len(places[output]) < len(pieces)
        }
        return BatchRequest(batch, outputs, parts)

    def _begin(self) -> None:
        """Have a folder of this pass, with what an earlier one left, or empty."""
        following = self._folder.with_name(f"{self._folder.name}.next")
        if PassState.read(following) != self.state:
            shutil.rmtree(following, ignore_errors=True)
            state, earlier = PassState.read(self._folder), self._earlier()
            following.mkdir(parents=True)
            save_row_texts(following, self._texts)
            if earlier is not None:
                self._fill(following, earlier, state)
            self.state.write(following)
        for output in _OUTPUTS:
            self._ledger.forget(self._name(output))
        take_place(following, self._folder)

    def _earlier(self) -> EarlierPass | None:
        """Return what lies in the folder, None where nothing of it can be used."""
        if not self._folder.exists():
            return None
        records = {}
        state = PassState.read(self._folder)
        for output in _OUTPUTS:
            known = self._ledger.fingerprint(self._name(output))
            if known is not None and known == state.fingerprints.get(output):
                records[output] = self._finished(output)
        earlier = EarlierPass.open(self._folder, state, records)
        if earlier is None:
            self._redo("what an earlier run left cannot be read", damaged=True)
            return None
        for output in self._task.outputs:
            self._tell_of(output, earlier, state)
        return earlier

    def _tell_of(self, output: Output, earlier: EarlierPass, state: PassState) -> None:
        """Note why an output of an earlier pass is not all taken over."""
        if changed := self._changed(output, state):
            self._redo(f"{', '.join(changed)} changed")
        elif output in earlier.outputs:
            if damaged := earlier.outputs[output].damaged:
                self._redo(_not_as_written(damaged), damaged=True)
        elif output in state.fingerprints and self._finished(output):
            self._redo(_GONE, damaged=True)

    def _changed(self, output: Output, state: PassState) -> list[str]:
        """Return the names of settings that are not those of an earlier pass."""
        if state.settings.get(output) == self.state.settings[output]:
            return []
        before = state.facts.get(output, {})
        now = orjson.loads(orjson.dumps(self.state.facts[output]))
        return [name for name in now if now[name] != before.get(name)]

    def _redo(self, reason: str, *, damaged: bool = False) -> None:
        self._redone.append(Redone(reason, damaged))

    def _fill(self, folder: Path, earlier: EarlierPass, state: PassState) -> None:
        """Copy what is the same; note which pieces that makes."""
        pieces = self._over.pieces
        for output in _OUTPUTS:
            if state.settings.get(output) != self.state.settings[output]:
                continue
            rows = earlier.rows_to_take(output, self._texts, pieces)
            if not len(rows.here):
                continue
            self._create(folder, output)
            numbers = earlier.copy(output, rows, pieces, self._texts, folder)
            kept = self._open(output, folder)
            taken = Taken(numbers, kept.digest(numbers))
            save_taken(folder, output, self.state.fingerprints[output], taken)

    def _take_up(self, output: Output) -> None:
        """Know what is there of an output; without anything its files are made anew."""
        name, fingerprint = self._name(output), self.state.fingerprints[output]
        taken = read_taken(self._folder, output, fingerprint)
        finished = self._finished(output)
        self._taken[output] = taken.numbers
        if len(taken) or finished:
            if kept := self._readable(output):
                self._validate(output, kept, taken)
                return
            if output in self._task.outputs:
                self._redo(_GONE, damaged=True)
        self._ledger.start_over(name)
        for path in self._files(self._folder, output):
            path.unlink(missing_ok=True)
        self._taken[output] = Taken().numbers
        if output in self._task.outputs or output == "dense":
            self._create(self._folder, output)

    def _validate(self, output: Output, kept: KeptOutput, taken: Taken) -> None:
        """Take up what has the digest that it was written with, and no more."""
        finished = self._finished(output)
        damaged = kept.damaged(self._over.plan, finished)
        self._ledger.forget_batches(self._name(output), damaged)
        self._kept[output] = kept
        lost = not taken.is_whole(kept)
        if lost:
            self._taken[output] = Taken().numbers
        if (damaged or lost) and output in self._task.outputs:
            self._redo(_not_as_written(len(damaged) + lost), damaged=True)

    def _readable(self, output: Output) -> KeptOutput | None:
        if not _whole(self._files(self._folder, output)):
            return None
        over = self._over
        return KeptOutput.open(
            self._folder, output, over.pieces, np.asarray(over.tokens.offsets)
        )

    def _open(self, output: Output, folder: Path | None = None) -> KeptOutput:
        """Return an output's bytes, which this pass has just written.

        Raises:
            OutputError: they are not there.
        """
        place, over = folder or self._folder, self._over
        offsets = np.asarray(over.tokens.offsets)
        kept = KeptOutput.open(place, output, over.pieces, offsets)
        if kept is None:
            raise OutputError(
                f"What was written to {place} cannot be read.",
                cure="Restore the folder, then run the same command.",
            )
        return kept

    def _files(self, folder: Path, output: Output) -> Mapping[Path, int]:
        """Return an output's files, each with the figures that it holds at least."""
        over, width = self._over, self._task.model.vector_dim
        if output == "attention":
            return {folder / "attention.f32": int(over.tokens.offsets[-1])}
        return {
            folder / "vectors.npy": len(over.tokens) * width,
            folder / "windows.npy": over.pieces.windows * width,
        }

    def _create(self, folder: Path, output: Output) -> None:
        over, width = self._over, self._task.model.vector_dim
        if output == "attention":
            create_attention(folder / "attention.f32", int(over.tokens.offsets[-1]))
            return
        create_vectors(folder / "vectors.npy", len(over.tokens), width)
        if over.pieces.windows:
            create_vectors(folder / "windows.npy", over.pieces.windows, width)

    def _job(self) -> EncodeJob:
        task, folder = self._task, self._folder
        windows = folder / "windows.npy"
        attention = folder / "attention.f32"
        return EncodeJob(
            model=task.model,
            location=task.location.path,
            tokens=task.tokens_dir,
            plan=folder / "plan.npz",
            pieces=folder / "pieces.npz",
            vectors=folder / "vectors.npy",
            windows=windows if self._over.pieces.windows else None,
            attention=attention if "attention" in task.outputs else None,
            device=task.device,
            dtype=task.dtype,
            budget_tokens=task.budget_tokens,
        )

    def _finished(self, output: Output) -> list[BatchRecord]:
        return self._ledger.finished(self._name(output))

    def _name(self, output: Output) -> str:
        return f"{output}:{self._task.model.name}"


def _not_as_written(batches: int) -> str:
    return f"bytes of {batches} batches are not those that were written"


def _whole(files: Mapping[Path, int]) -> bool:
    """Say whether the files are there and long enough, or not needed."""
    return all(
        not figures
        or (path.is_file() and path.stat().st_size >= figures * FLOAT32_BYTES)
        for path, figures in files.items()
    )


def _facts(task: DenseTask, output: Output) -> dict[str, object]:
    """Return what an output's bytes depend on beside the texts.

    Another version of a library, or another processor, has other kernels.
    """
    graph = ("onnxruntime",) if task.model.backend == "onnx" else ()
    kernels = {} if task.device == "cpu" else {"kernels": GPU_KERNELS_REVISION}
    return kernels | {
        "version": _BYTES_VERSION,
        "output": output,
        "tokenizer": task.tokenizer_fingerprint,
        "window": task.model.max_tokens,
        "revision": task.location.revision,
        "dtype": task.dtype,
        "device": task.device.split(":")[0],
        "pooling": task.model.pooling,
        "dimension": task.model.vector_dim,
        "libraries": installed_versions((*_LIBRARIES, *graph)),
        "instruction_sets": this_machine().instruction_sets,
    }


def _content(task: DenseTask, over: PassInput) -> dict[str, object]:
    """Return what follows from the texts."""
    return {
        "texts": hashlib.sha256(task.text_hashes.tobytes()).hexdigest(),
        "tokens": int(over.tokens.offsets[-1]),
        "plan": over.plan.digest,
        "windows": over.pieces.digest,
    }


def _digest(facts: Mapping[str, object]) -> str:
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()
