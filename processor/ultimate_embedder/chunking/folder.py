"""A folder tree to a tree of chunk files: in parallel, only what has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..disk_space import require_writable
from ..errors import InputError, UsageError
from ..telemetry import events as ev
from .discovery import Collection, Document, find_collections, loose_files
from .one_file import ChunkJob, FileChunker, Outcome
from .state import Entry, State
from .workers import Processes, Task

SMALL_JOB_BYTES = 2**20
"""Below this, starting processes costs more time than they save."""

Chunk = Callable[[Sequence[Task]], Iterator[Outcome]]
"""Chunks the files of a collection, in this process or in others."""

UNOWNED_SHOWN = 5
"""Chunk files of no source that a warning names; the others are counted."""


@dataclass(slots=True)
class CollectionReport:
    """Figures of one collection. Every document is one of chunked, unchanged, empty or
    quarantined. `chunks` and `tokens` are what its chunk files hold now, the new ones
    among them what this run made.
    """

    name: str
    documents: int = 0
    chunked: int = 0
    unchanged: int = 0
    empty: int = 0
    quarantined: int = 0
    removed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    chunks: int = 0
    tokens: int = 0
    new_chunks: int = 0
    new_tokens: int = 0
    warnings: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Were there documents, and no usable chunk?"""
        return self.documents > 0 and self.chunks == 0

    @property
    def reason(self) -> str | None:
        """Why it failed, for a person; None when it did not."""
        if not self.failed:
            return None
        return (
            f"No usable chunk (documents: {self.documents}, empty: {self.empty}, "
            f"set aside: {self.quarantined})."
        )

    def count(self, entry: Entry, *, unchanged: bool) -> None:
        """Add a file that could be read."""
        self.chunks += entry.chunks
        self.tokens += entry.tokens
        self.warnings += len(entry.warnings)
        if not unchanged:
            self.new_chunks += entry.chunks
            self.new_tokens += entry.tokens
        if entry.output is None:
            self.empty += 1
        elif unchanged:
            self.unchanged += 1
        else:
            self.chunked += 1


def chunk_folder(job: ChunkJob, emit: ev.Emit = ev.silent) -> list[CollectionReport]:
    """Chunk the collections of a folder; return their figures in order.

    What a stopped run has done is kept: the same command does the rest.

    Raises:
        UsageError: the folders or the settings cannot be used.
        InputError: no document was found.
        OutputError: writing failed.
    """
    found = find_collections(job.input_dir, job.collections)
    _check_output(job)
    here = FileChunker(job)
    if loose := loose_files(job.input_dir):
        message = (
            "Documents outside any first-level folder are not chunked; "
            f"there are {loose} in {job.input_dir}."
        )
        emit(ev.Warned(message=message))
    if not any(collection.documents or collection.refused for collection in found):
        raise InputError(
            f"No document was found in the first-level folders of {job.input_dir}.",
            cure="Each collection is a folder in it.",
        )
    state = State(job.output_dir, emit)
    whole = False
    try:
        if state.whole:
            state.save(whole=False)  # this run may be killed
        reports = []
        with _chunking(job, here, found) as chunk:
            for one in found:
                reports.append(_collection(job, chunk, one, state, emit))
                state.save_unfinished()
        if not job.collections:
            _forget_other_collections(state, [one.name for one in found])
        if not state.whole:
            _tell_unowned(state, [one.name for one in found], emit)
        whole = state.whole or not job.collections
    finally:
        state.save(whole=whole)
    return reports


def _tell_unowned(state: State, names: Sequence[str], emit: ev.Emit) -> None:
    """Warn of chunk files that are of no source, where earlier runs left no record.

    They are not removed: other tools may have made them.
    """
    for name in names:
        if files := state.unowned(name):
            shown = ", ".join(map(_printable, files[:UNOWNED_SHOWN]))
            more = len(files) - UNOWNED_SHOWN
            message = (
                f"Chunk files of no source that is here: {shown}"
                f"{f' and {more} more' if more > 0 else ''}. What earlier runs wrote "
                "is not known; delete those whose sources are gone, or they are "
                "embedded too."
            )
            emit(ev.Warned(message=message, collection=name))


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _check_output(job: ChunkJob) -> None:
    """Find out before any work that the output folder can be written to."""
    if job.output_dir.resolve().is_relative_to(job.input_dir.resolve()):
        raise UsageError(
            f"The output folder lies in the input folder: {job.output_dir}.",
            cure="Choose one outside: chunk files would be chunked again.",
        )
    require_writable(job.output_dir)


def _collection(
    job: ChunkJob,
    chunk: Chunk,
    collection: Collection,
    state: State,
    emit: ev.Emit,
) -> CollectionReport:
    began = time.perf_counter()
    report = CollectionReport(
        collection.name,
        documents=len(collection.documents) + len(collection.refused),
        skipped=dict(sorted(collection.skipped.items())),
    )
    emit(ev.CollectionStarted(collection=collection.name))
    for place, reason, detail in collection.refused:
        _quarantine(report, place, reason, detail, emit)
    report.removed = _forget_deleted(state, collection)
    _announce(job, collection, emit)
    for outcome in chunk(_tasks(job, collection.documents, state)):
        _note(job, report, outcome, state, emit)
    report.seconds = time.perf_counter() - began
    _conclude(job, report, emit)
    return report


@contextmanager
def _chunking(
    job: ChunkJob, here: FileChunker, found: Sequence[Collection]
) -> Iterator[Chunk]:
    """Give what chunks files; several processes where there is enough to do."""
    documents = [document for one in found for document in one.documents]
    workers = job.workers or len(os.sched_getaffinity(0))
    whole = sum(_size(job, document) for document in documents)
    if workers > 1 and whole > SMALL_JOB_BYTES:
        with Processes(job, min(workers, len(documents))) as processes:
            yield processes.outcomes
    else:
        yield lambda tasks: (here(*task) for task in tasks)


def _tasks(job: ChunkJob, documents: Sequence[Document], state: State) -> list[Task]:
    """Return the files with what is known of them, large ones first.

    So the workers of a collection end together.
    """
    known = {} if job.fresh else state.files
    order = sorted(documents, key=lambda one: -_size(job, one))
    return [(document, known.get(document.path.as_posix())) for document in order]


def _size(job: ChunkJob, document: Document) -> int:
    try:
        return (job.input_dir / document.path).stat().st_size
    except OSError:
        return 0  # it is told of when it is read


def _announce(job: ChunkJob, collection: Collection, emit: ev.Emit) -> None:
    emit(
        ev.StageStarted(
            stage="chunk",
            collection=collection.name,
            model=job.settings.tokenizer,
            total=len(collection.documents),
            unit="files",
        )
    )


def _note(
    job: ChunkJob,
    report: CollectionReport,
    outcome: Outcome,
    state: State,
    emit: ev.Emit,
) -> None:
    """Count one file, tell of it, and remember it."""
    entry = outcome.entry
    if entry is None:
        state.forget(outcome.source)
        _quarantine(report, outcome.source, outcome.reason, outcome.detail, emit)
    else:
        state.replace(outcome.source, entry)
        report.count(entry, unchanged=outcome.unchanged)
        for warning in entry.warnings:
            within = outcome.source.removeprefix(f"{report.name}/")
            message = f"{within}: {warning}"
            emit(ev.Warned(message=message, collection=report.name))
    emit(
        ev.BatchFinished(
            stage="chunk",
            collection=report.name,
            model=job.settings.tokenizer,
            items=1,
            seconds=outcome.seconds,
            tokens=0 if entry is None or outcome.unchanged else entry.tokens,
        )
    )


def _quarantine(
    report: CollectionReport, file: str, reason: str, detail: str, emit: ev.Emit
) -> None:
    report.quarantined += 1
    emit(
        ev.ItemQuarantined(
            collection=report.name,
            file=file,
            index=None,
            reason=reason,
            detail=detail,
        )
    )


def _forget_deleted(state: State, collection: Collection) -> int:
    """Remove the chunk files of sources that are gone; return how many."""
    present = {document.path.as_posix() for document in collection.documents}
    inside = collection.name + "/"
    gone = [
        name for name in state.files if name.startswith(inside) and name not in present
    ]
    for name in gone:
        state.forget(name)
    return len(gone)


def _forget_other_collections(state: State, names: Sequence[str]) -> None:
    for source in list(state.files):
        if source.partition("/")[0] not in names:
            state.forget(source)


def _conclude(job: ChunkJob, report: CollectionReport, emit: ev.Emit) -> None:
    emit(
        ev.StageFinished(
            stage="chunk",
            collection=report.name,
            model=job.settings.tokenizer,
            items=report.new_chunks,
            seconds=report.seconds,
            tokens=report.new_tokens,
        )
    )
    emit(
        ev.CollectionFinished(
            collection=report.name,
            chunks=report.chunks,
            seconds=report.seconds,
            error=report.reason,
        )
    )
