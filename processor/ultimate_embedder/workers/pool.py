"""Hands the requests of a job to worker processes and collects what they did.

A worker that dies is noticed by the end of its output; its batches go to another one,
and so do those of a worker whose device has no room for one text of them.
Workers are started as plain commands, not forked or spawned from the caller's main
module, so this works the same from a script, a notebook and standard input.
"""

from __future__ import annotations

import contextlib
import logging
import os
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
from ..errors import DeviceOutOfMemory, EmbedderError, RunStopped
from ..memory_plan import PassProbe
from .batch_encoder import BatchEncoder
from .jobs import BatchReply, BatchRequest, EncodeJob, Failure, Ready, answer_from_line

_IMPORT_ROOT = Path(__file__).resolve().parents[3]
_COMMAND = (
    sys.executable,
    "-c",
    # First of all: Ctrl-C reaches the whole group, and the parent decides.
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from processor.ultimate_embedder.workers.process import main; main()",
    str(_IMPORT_ROOT),
)
_SECONDS_TO_END = 5.0
_GIVEN_AT_ONCE = 2  # to a worker on a GPU
_READ_BYTES = 2**16
_LOGGER = logging.getLogger(__name__)


class BatchExecutor(Protocol):
    """Does requests in any order and yields a reply for each, exactly once."""

    def run(self, requests: Sequence[BatchRequest]) -> Iterator[BatchReply]:
        """Yield replies as they come; each is on disk when it comes."""


class InProcessExecutor:
    """Does everything here, with an encoder that is already loaded."""

    def __init__(self, job: EncodeJob, encoder: AttentionEncoder) -> None:
        probe = encoder if isinstance(encoder, PassProbe) else None
        self._batches = BatchEncoder(job, encoder, pass_probe=probe)

    def close(self) -> None:
        """Let go of the job's files."""
        self._batches.close()

    def run(self, requests: Sequence[BatchRequest]) -> Iterator[BatchReply]:
        """Do the requests in order."""
        return (self._batches.run(request) for request in requests)


class _Worker:
    def __init__(self, job: EncodeJob, command: Sequence[str]) -> None:
        self.device = job.device
        self.ready = False
        self.given: deque[BatchRequest] = deque()
        """What it has and has not answered, in order."""
        self._begun = b""  # of an answer whose end has not come
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._send(job.to_line())

    @property
    def output(self) -> IO[bytes]:
        if self.process.stdout is None:
            raise RuntimeError("the worker was started without a pipe")
        return self.process.stdout

    @property
    def may_take_ahead(self) -> bool:
        """Whether it takes a batch to compute while it writes another one.

        A GPU would wait for the disk; a CPU has nothing left to do beside.
        """
        return self.device != "cpu" and len(self.given) < _GIVEN_AT_ONCE

    def give(self, request: BatchRequest) -> None:
        self.given.append(request)
        self._send(request.to_line())

    def read_lines(self) -> list[bytes] | None:
        """Return the answers that have come, waiting for some; None at their end.

        Past any buffer of Python's: an answer left in one would wake no selector.
        """
        data = os.read(self.output.fileno(), _READ_BYTES)
        if not data:
            return None  # what was begun of an answer is none
        *lines, self._begun = (self._begun + data).split(b"\n")
        return lines

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

    def __init__(
        self, jobs: Sequence[EncodeJob], command: Sequence[str] = _COMMAND
    ) -> None:
        """Start a worker for each job; jobs differ in their device at most.

        `command` starts a process that behaves as `process.main` does.
        """
        self._ends: list[str] = []
        self._no_room: Failure | None = None
        self._selector = selectors.DefaultSelector()
        self._workers = [_Worker(job, command) for job in jobs]
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
            DeviceOutOfMemory: no worker is left, and one had no room for a text.
            RunStopped: every worker died.
        """
        waiting = deque(requests)
        missing = len(waiting)
        self._feed(waiting)  # those that an earlier call has left without work
        while missing:
            if not self._selector.get_map():
                raise self._none_left(missing)
            for key, _ in self._selector.select():
                worker: _Worker = key.data
                lines = worker.read_lines()
                if lines is None:
                    self._lose(worker, waiting, None)
                for line in lines or ():
                    reply = self._hear(worker, line, waiting)
                    if reply is not None:
                        missing -= 1
                        yield reply

    def _none_left(self, missing: int) -> EmbedderError:
        if self._no_room is not None:
            return _named(self._no_room)
        return RunStopped(
            f"Every worker process died ({', '.join(self._ends)}); {missing} "
            "batches are left.",
            cure="After signal 9 look for 'out of memory' in the system's log "
            "and use fewer workers; after an exit status see the error above. "
            "The same command resumes.",
        )

    def _hear(
        self, worker: _Worker, line: bytes, waiting: deque[BatchRequest]
    ) -> BatchReply | None:
        answer = answer_from_line(line)
        if isinstance(answer, Failure):
            if answer.kind != DeviceOutOfMemory.__name__:
                raise _named(answer)
            self._lose(worker, waiting, answer)
            return None
        if isinstance(answer, Ready):
            worker.ready = True
        else:
            worker.given.popleft()
        self._feed(waiting)
        return None if isinstance(answer, Ready) else answer

    def _lose(
        self, worker: _Worker, waiting: deque[BatchRequest], no_room: Failure | None
    ) -> None:
        """Go on without a worker; its batches are the next ones to be done."""
        self._selector.unregister(worker.output)
        self._no_room = no_room or self._no_room
        self._ends.append(worker.how_it_ended())
        _LOGGER.warning(
            "A worker on %s ended (%s); %d are left.",
            worker.device,
            no_room.message if no_room else self._ends[-1],
            len(self._selector.get_map()),
        )
        waiting.extendleft(reversed(worker.given))
        worker.given.clear()
        self._feed(waiting)

    def _feed(self, waiting: deque[BatchRequest]) -> None:
        """Give batches to workers that have none, then one ahead to those that take it.

        The last batches are given to nobody ahead: who is free first does them.
        """
        found: list[_Worker] = [key.data for key in self._selector.get_map().values()]
        ready = [worker for worker in found if worker.ready]
        for worker in ready:
            if waiting and not worker.given:
                worker.give(waiting.popleft())
        for worker in ready:
            if len(waiting) >= len(found) and worker.may_take_ahead:
                worker.give(waiting.popleft())


def _named(failure: Failure) -> EmbedderError:
    if failure.kind == DeviceOutOfMemory.__name__:
        return DeviceOutOfMemory(failure.message, cure=failure.cure, row=failure.row)
    kind: type[EmbedderError] = getattr(errors, failure.kind, RunStopped)
    return kind(failure.message, cure=failure.cure)
