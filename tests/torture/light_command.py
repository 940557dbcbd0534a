"""The real embed command in a child process, with an encoder that needs no weights.

What goes through the encoder is noted in a file that only grows, a line for each call,
so that a killed process has told all that it did.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from processor.ultimate_embedder import batch_runner
from processor.ultimate_embedder.cli import embed_run
from processor.ultimate_embedder.cli.embed import embed
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.records import Float32Array, UInt32Array
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.telemetry.events import Emit
from processor.ultimate_embedder.testing import HashingEncoder, hashing_parts
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process
from processor.ultimate_embedder.workers.pool import WorkerPool

ROOT = Path(__file__).resolve().parents[2]
LOG, PAUSE, WORKERS = "TORTURE_LOG", "TORTURE_PAUSE", "TORTURE_WORKERS"
RESUME = "resume with: "
LATER = "run again later: "


class TellingEncoder(HashingEncoder):
    """Notes each text that it is given, after a pause, and encodes it."""

    def __init__(self, dimension: int, log: Path, pause: float = 0.0) -> None:
        super().__init__(dimension)
        self._log, self._pause = log, pause

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        digests = (blake2b(row.tobytes(), digest_size=8).hexdigest() for row in ids)
        told = " ".join(digests) + "\n"
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, told.encode())
        os.close(descriptor)
        time.sleep(self._pause)
        return super().encode(ids)


def telling_parts(log: Path, pause: float = 0.0) -> Parts:
    """Return parts without weights whose encoder notes in `log` what it is given."""

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        yield TellingEncoder(job.model.vector_dim, log, pause)

    return replace(hashing_parts(), open_executor=in_process(open_encoder))


def with_workers(parts: Parts, count: int) -> Parts:
    """Return the same parts, batches done by processes of `light_worker`."""
    command = (sys.executable, str(Path(__file__).with_name("light_worker.py")))

    def open_pool(job: EncodeJob, batches: int) -> WorkerPool:
        return WorkerPool([job] * count, command)

    return replace(parts, open_executor=open_pool)


def encoded(log: Path) -> list[list[str]]:
    """Return what was given to encoders so far: calls, each a list of texts."""
    if not log.exists():
        return []
    return [line.split() for line in log.read_text(encoding="ascii").splitlines()]


def repeated(log: Path, undisturbed: Path) -> int:
    """Return how many texts went through the model more often than they had to."""
    done, needed = (
        Counter(text for call in encoded(path) for text in call)
        for path in (log, undisturbed)
    )
    return sum((done - needed).values())


def run_light(arguments: Sequence[str]) -> int:
    """Do the embed command in this process; return its exit code.

    The environment names the log, the pause before each batch and the workers.
    """

    def runner(config: PipelineConfig, emit: Emit, run_id: str) -> embed_run.Runner:
        log = Path(os.environ.get(LOG, os.devnull))
        parts = telling_parts(log, float(os.environ.get(PAUSE, "0")))
        if workers := int(os.environ.get(WORKERS, "0")):
            parts = with_workers(parts, workers)
        small = replace(config, gpu=replace(config.gpu, base_batch_size=4))
        return batch_runner.BatchRunner(
            small, emit, run_id, parts, leave_up_to_date=True
        )

    # The command takes no runner: a process of its own has its own here.
    embed_run._batch_runner = runner
    return run_function(embed, list(arguments))


def arguments_for(root: Path, output: str = "out", *more: str) -> list[str]:
    """Return the arguments of a run over `root`/chunked with every stage."""
    return [
        *("--chunked-dir", str(root / "chunked"), "--output-dir", str(root / output)),
        *("--device", "cpu", "--offline", "--log-format", "plain"),
        *("--queries", str(root / "queries.jsonl"), "--no-probes"),
        *more,
    ]


@dataclass
class Child:
    """A process that runs the command; `said` is a file of all it printed."""

    pid: int
    said: Path

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return its exit status, negative where a signal ended it."""
        _, ended = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(ended)

    @property
    def ended(self) -> bool:
        """Say whether it has ended, leaving its status for `wait`."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    @property
    def lines(self) -> list[str]:
        return self.said.read_text(encoding="utf-8").splitlines()

    def last_line_but_resume(self) -> str:
        return [line for line in self.lines if not line.startswith((RESUME, LATER))][-1]


def start(
    arguments: Sequence[str],
    said: Path,
    *,
    prepare: Callable[[], None] = lambda: None,
    environment: dict[str, str] | None = None,
) -> Child:
    """Start the command in a forked child; `prepare` runs in it before."""
    pid = os.fork()
    if pid:
        return Child(pid, said)
    status = 99
    try:
        faulthandler.disable()  # the test's own, which would speak for the command
        signal.signal(signal.SIGINT, signal.default_int_handler)
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.close(descriptor)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", closefd=False)
        os.environ.update(environment or {})
        prepare()
        status = run_light(arguments)
        sys.stdout.flush()
    finally:
        os._exit(status)


def wait_until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return when something has happened.

    Raises:
        TimeoutError: it has not, after so many seconds.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(0.005)


if __name__ == "__main__":
    raise SystemExit(run_light(sys.argv[1:]))
