"""Files chunked in several processes, each with its own tokenizer."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from .discovery import Document
from .one_file import ChunkJob, FileChunker, Outcome
from .state import Entry

Task = tuple[Document, Entry | None]

_chunker: list[FileChunker] = []  # of a worker process: set once, at its start


class Processes:
    """Worker processes over any number of collections: started once, where needed."""

    def __init__(self, job: ChunkJob, workers: int) -> None:
        """Start none yet."""
        self._job = job
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the files under way, drop the others."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield the outcome of each task, as they become ready.

        A file that kills its worker (a fault in a parser's native code) is set aside as
        `crashed`; the files that were under way beside it are done again.

        Raises:
            OutputError: a chunk file cannot be written.
        """
        lost = []
        for task, outcome in self._tried(tasks):
            if outcome is None:
                lost.append(task)
            else:
                yield outcome
        for task in lost:
            yield from self._alone(task)

    def _tried(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome | None]]:
        """Yield each task with its outcome, None when a worker died."""
        pool = self._opened()
        futures: dict[Future[Outcome], Task] = {
            _submitted(pool, task): task for task in tasks
        }
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                self._pool = None  # it takes no more work
                yield futures[future], None

    def _opened(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                # A forked copy of a process with threads (the tokenizer has some) may
                # hang.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start,
                initargs=(self._job,),
            )
        return self._pool

    def _alone(self, task: Task) -> Iterator[Outcome]:
        for _, outcome in self._tried([task]):
            yield outcome or Outcome(
                task[0].path.as_posix(),
                reason="crashed",
                detail="the parser ended the process; mend or remove the file",
            )


def _submitted(pool: ProcessPoolExecutor, task: Task) -> Future[Outcome]:
    """Return the task's future; in a pool that broke meanwhile, a failed one."""
    try:
        return pool.submit(_chunk, *task)
    except BrokenProcessPool as error:
        future: Future[Outcome] = Future()
        future.set_exception(error)
        return future


def _start(job: ChunkJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _chunker.append(FileChunker(job))


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end too.

    The pool does not: workers of a killed run would wait for files for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _chunk(document: Document, before: Entry | None) -> Outcome:
    return _chunker[0](document, before)
