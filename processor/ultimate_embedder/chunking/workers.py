"""Files chunked in several processes, each with its own tokenizer."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from .discovery import Document
from .one_file import ChunkJob, FileChunker, Outcome
from .state import Entry

Task = tuple[Document, Entry | None]

_chunker: list[FileChunker] = []  # of a worker process: set once, at its start


def in_processes(
    job: ChunkJob, tasks: Sequence[Task], workers: int
) -> Iterator[Outcome]:
    """Yield the outcome of each task, as they become ready.

    A file that kills its worker (a fault in a parser's native code) is set aside as
    `crashed`; the files that were under way beside it are done again.

    Raises:
        OutputError: a chunk file cannot be written.
    """
    done: set[Document] = set()
    crashed = False
    for task, outcome in _pool(job, tasks, workers):
        if outcome is None:
            crashed = True
        else:
            done.add(task[0])
            yield outcome
    if crashed:
        for task in tasks:
            if task[0] not in done:
                yield from _alone(job, task)


def _pool(
    job: ChunkJob, tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Outcome | None]]:
    """Yield each task with its outcome, None when a worker died."""
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        # A forked copy of a process with threads (the tokenizer has some) may hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(job,),
    )
    try:
        futures: dict[Future[Outcome], Task] = {
            pool.submit(_chunk, *task): task for task in tasks
        }
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], None
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(job: ChunkJob, task: Task) -> Iterator[Outcome]:
    for _, outcome in _pool(job, [task], 1):
        yield outcome or Outcome(
            task[0].path.as_posix(),
            reason="crashed",
            detail="the parser ended the process; mend or remove the file",
        )


def _start(job: ChunkJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    _chunker.append(FileChunker(job))


def _chunk(document: Document, before: Entry | None) -> Outcome:
    return _chunker[0](document, before)
