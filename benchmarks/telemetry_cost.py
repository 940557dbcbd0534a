"""What telemetry costs: runs with every listener and with none, in turns.

With: log lines of JSON, progress, metrics in a text file and over HTTP, scraped once a
second, spans to another process and to a file. Without: nothing. The main job runs over
the chunk files of a folder with the embedded model in this process, so that processor
time counts all of it, the exporter's thread too.

Three answers, from the roughest to the finest: medians of wall and of processor time;
the median of what a pair of runs, one after the other, differ in processor time, with
the quartiles; and what can be counted without another run beside: the time in
listeners, from first event to last close, and the processor time of threads (exporter
and server) beyond those of a run without.

    python -m benchmarks.telemetry_cost CHUNKED_DIR [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.durability_cost import parts
from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.listeners import listening
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.hardware import this_machine
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.settings import ReportingConfig
from processor.ultimate_embedder.telemetry.events import Event, silent


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one run; `listening` is what its events took, `beside` threads."""

    wall: float
    processor: float
    listening: float
    beside: float
    events: int


class Threads:
    """Adds up the processor time of Python threads that start in a `with` block.

    Those of thread pools are left out: the encoder's, which are no telemetry.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Threads:
        self._run = real = threading.Thread.run

        def run(thread: threading.Thread) -> None:
            try:
                real(thread)
            finally:
                if not thread.name.startswith("ThreadPoolExecutor"):
                    self.seconds += time.thread_time()

        threading.Thread.run = run  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread.run = self._run  # type: ignore[method-assign]


def take_spans(ready: Connection) -> None:
    """Answer every POST with 200, in a process of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_port)
    server.serve_forever()


@contextmanager
def collector() -> Iterator[str]:
    """Give the address of a process that takes spans."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=take_spans, args=(there,), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.kill()


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Ask for the metrics once a second."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(1.0):
            with contextlib.suppress(OSError):  # not there yet, or gone already
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def one_run(chunked: Path, folder: Path, reporting: ReportingConfig | None) -> Took:
    """Make every bundle anew, with all listeners or with none."""
    config = PipelineConfig(
        chunked_dir=chunked,
        output_dir=folder / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"),),
        enable_rerank=False,
        offline=True,
        resume=False,
    )
    spent, events = 0.0, 0

    def timed(emit: Callable[[Event], None]) -> Callable[[Event], None]:
        def call(event: Event) -> None:
            nonlocal spent, events
            started = time.perf_counter()
            emit(event)
            spent += time.perf_counter() - started
            events += 1

        return call

    def without() -> int:
        return BatchRunner(config, silent, "benchmark", parts()).run().exit_code

    def with_all(reporting: ReportingConfig) -> int:
        nonlocal spent
        with contextlib.redirect_stderr(io.StringIO()):
            opened = time.perf_counter()
            with listening(reporting, "json") as emit:
                spent += time.perf_counter() - opened
                runner = BatchRunner(config, timed(emit), "benchmark", parts())
                code = runner.run().exit_code
                closing = time.perf_counter()
            spent += time.perf_counter() - closing
        return code

    wall, processor = time.perf_counter(), time.process_time()
    with Threads() as threads:
        if without() if reporting is None else with_all(reporting):
            raise SystemExit("A run failed.")
    return Took(
        wall=time.perf_counter() - wall,
        processor=time.process_time() - processor,
        listening=spent,
        beside=threads.seconds,
        events=events,
    )


def figures(with_all: list[Took], without: list[Took]) -> dict[str, Any]:
    """Return medians, and costs as shares of a run without telemetry."""

    def median(runs: list[Took], name: str) -> float:
        return statistics.median(getattr(run, name) for run in runs)

    found: dict[str, Any] = {
        "processor": this_machine().processor,
        "rounds": len(with_all),
        "events": with_all[0].events,
    }
    for name in ("wall", "processor"):
        on, off = median(with_all, name), median(without, name)
        found[f"{name}_seconds"] = [round(off, 3), round(on, 3)]
        found[f"{name}_share"] = round(on / off - 1, 4)
    pairs = [
        on.processor / off.processor - 1
        for on, off in zip(with_all, without, strict=True)
    ]
    quartiles = statistics.quantiles(pairs, n=4, method="inclusive")
    found["paired_processor_shares"] = [round(share, 4) for share in quartiles]
    spent = median(with_all, "listening")
    beside = median(with_all, "beside") - median(without, "beside")
    found["listening_seconds"] = round(spent, 4)
    found["threads_seconds"] = round(beside, 4)
    found["counted_share"] = round((spent + beside) / median(without, "wall"), 5)
    return found


def main() -> None:
    """Run in turns and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chunked_dir", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=19464)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with_all: list[Took] = []
    without: list[Took] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, collector() as address:
        folder = Path(name)
        reporting = ReportingConfig(
            log_format="json",
            metrics_port=options.port,
            metrics_textfile=folder / "rag.prom",
            otlp_endpoint=address,
            otlp_file=folder / "spans.jsonl",
        )
        one_run(options.chunked_dir, folder, None)  # the first also loads libraries
        for turn in range(options.rounds):
            for on in (True, False) if turn % 2 else (False, True):
                if on:
                    with scraped(options.port):
                        took = one_run(options.chunked_dir, folder, reporting)
                    with_all.append(took)
                else:
                    without.append(one_run(options.chunked_dir, folder, None))
    found = figures(with_all, without)
    print(json.dumps(found, indent=1) if options.json else found)


if __name__ == "__main__":
    main()
