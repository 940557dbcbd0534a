"""Hands the requests of a job to worker processes and collects what they did.

A worker that dies is noticed by the end of its output; its batch goes to another one.
Workers are started as plain commands, not forked or spawned from the caller's main
module, so this works the same from a script, a notebook and standard input.
"""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from .. import errors
from ..encoders.protocols import AttentionEncoder
from ..errors import EmbedderError, RunStopped
from .batch_encoder import BatchEncoder
from .jobs import BatchReply, BatchRequest, EncodeJob, Failure, Ready, answer_from_line

_IMPORT_ROOT = Path(__file__).resolve().parents[3]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from processor.ultimate_embedder.workers.process import main; main()"
)
_SECONDS_TO_END = 5.0


class BatchExecutor(Protocol):
    """Does requests in any order and yields a reply for each, exactly once."""

    def run(self, requests: Sequence[BatchRequest]) -> Iterator[BatchReply]:
        """Yield replies as they come; each is on disk when it comes."""


class InProcessExecutor:
    """Does everything here, with an encoder that is already loaded."""

    def __init__(self, job: EncodeJob, encoder: AttentionEncoder) -> None:
        self._batches = BatchEncoder(job, encoder)

    def run(self, requests: Sequence[BatchRequest]) -> Iterator[BatchReply]:
        """Do the requests in order."""
        return (self._batches.run(request) for request in requests)


class _Worker:
    def __init__(self, job: EncodeJob) -> None:
        self.ready = False
        self.current: BatchRequest | None = None
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-c", _START, str(_IMPORT_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send(job.to_line())

    @property
    def output(self) -> IO[bytes]:
        if self.process.stdout is None:
            raise RuntimeError("the worker was started without a pipe")
        return self.process.stdout

    def give(self, request: BatchRequest) -> None:
        self.current = request
        self._send(request.to_line())

    def end(self) -> None:
        """Close its input and wait; stop it if it does not end by itself."""
        if self.process.stdin is not None:
            # It may have ended already, with a line still in its buffer.
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()

    def how_it_ended(self) -> str:
        """Wait for the process, whose output has ended, and say what it left with."""
        self.end()
        status = self.process.returncode
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def _send(self, line: bytes) -> None:
        if self.process.stdin is None:
            raise RuntimeError("the worker was started without a pipe")
        # A dead worker shows as the end of its output.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()


class WorkerPool:
    """A context manager over as many workers as given jobs, one model each."""

    def __init__(self, jobs: Sequence[EncodeJob]) -> None:
        """Start a worker for each job; jobs differ in their device at most."""
        self._ends: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._workers = [_Worker(job) for job in jobs]
        for worker in self._workers:
            self._selector.register(worker.output, selectors.EVENT_READ, worker)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The workers' processes, in the order of their jobs."""
        return tuple(worker.process.pid for worker in self._workers)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            # Nothing is lost with one: what it has answered is on disk.
            if kind is not None or not worker.ready:
                worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._selector.close()

    def run(self, requests: Sequence[BatchRequest]) -> Iterator[BatchReply]:
        """Yield replies as workers finish.

        Raises:
            EmbedderError: what a worker raised, by its own class.
            RunStopped: every worker died.
        """
        waiting = deque(requests)
        missing = len(waiting)
        while missing:
            if not self._selector.get_map():
                raise RunStopped(
                    f"Every worker process died ({', '.join(self._ends)}); {missing} "
                    "batches are left.",
                    cure="After signal 9 look for 'out of memory' in the system's log "
                    "and use fewer workers; after an exit status see the error above. "
                    "The same command resumes.",
                )
            for key, _ in self._selector.select():
                worker: _Worker = key.data
                reply = self._hear(worker, waiting)
                if reply is not None:
                    missing -= 1
                    yield reply

    def _hear(self, worker: _Worker, waiting: deque[BatchRequest]) -> BatchReply | None:
        line = worker.output.readline()
        if not line:
            self._selector.unregister(worker.output)
            self._ends.append(worker.how_it_ended())
            if worker.current is not None:
                waiting.appendleft(worker.current)
                self._wake_idle(waiting)
            return None
        answer = answer_from_line(line)
        if isinstance(answer, Failure):
            raise _named(answer)
        worker.current = None
        if waiting:
            worker.give(waiting.popleft())
        if isinstance(answer, Ready):
            worker.ready = True
            return None
        return answer

    def _wake_idle(self, waiting: deque[BatchRequest]) -> None:
        """Give a dead worker's batch to one that had run out of work."""
        for key in self._selector.get_map().values():
            worker: _Worker = key.data
            if worker.ready and worker.current is None and waiting:
                worker.give(waiting.popleft())


def _named(failure: Failure) -> EmbedderError:
    kind: type[EmbedderError] = getattr(errors, failure.kind, RunStopped)
    return kind(failure.message, cure=failure.cure)
