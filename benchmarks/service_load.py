"""The HTTP service under load on this machine: questions a second, latency, memory.

Questions are first words of the bundle's own chunks. Without --soak-minutes clients ask
one after another, as fast as answers come, with and without rerank. With it questions
come at --rate a second for that long, and the process's memory is read each minute.

    python -m benchmarks.service_load BUNDLE [--seconds N] [--clients N ...]
        [--soak-minutes N --rate N]
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil

from processor.ultimate_embedder.search import open_bundle

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "serve_bundle.py"
WORDS = 8
QUESTIONS = 500
RERANK_SHARE = 0.05
TIMEOUT = 120.0


def main(argv: Sequence[str] | None = None) -> None:
    """Serve a bundle and ask it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--soak-minutes", type=float)
    parser.add_argument("--rate", type=float, default=5.0)
    asked = parser.parse_args(argv)
    questions = _questions(asked.bundle)
    with _serving(asked.bundle) as (process, address):
        if asked.soak_minutes:
            _soak(process, address, questions, asked.soak_minutes, asked.rate)
            return
        print("| rerank | clients | questions a second | p50 ms | p99 ms | failed |")
        print("|---|---|---|---|---|---|")
        for rerank in (False, True):
            for clients in asked.clients:
                _load(address, questions, clients, asked.seconds, rerank=rerank)


def _questions(bundle: Path) -> list[str]:
    with open_bundle(bundle, offline=True) as opened:
        rows = random.Random(0).sample(range(len(opened)), min(QUESTIONS, len(opened)))
        texts = [opened.chunk(row)[1] or "" for row in rows]
    found = [" ".join(re.findall(r"\w+", text)[:WORDS]) for text in texts]
    return [question for question in found if question]


@contextmanager
def _serving(bundle: Path) -> Iterator[tuple[psutil.Process, str]]:
    with subprocess.Popen(
        [sys.executable, SCRIPT, bundle, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = ""
        while not address:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the service did not start")
            if found := re.search(r"Serving on (http://\S+)", line):
                address = found[1]
        try:
            yield psutil.Process(process.pid), address
        finally:
            process.terminate()


def _ask(client: httpx2.Client, question: str, *, rerank: bool) -> tuple[float, bool]:
    """Return the seconds it took, and whether there was an answer."""
    started = time.perf_counter()
    try:
        response = client.post("/search", json={"query": question, "rerank": rerank})
        good = response.status_code == 200
    except httpx2.HTTPError:  # counted as failed, as any answer but 200 is
        good = False
    return time.perf_counter() - started, good


def _load(
    address: str, questions: list[str], clients: int, seconds: float, *, rerank: bool
) -> None:
    """Let clients ask for some seconds and print a row."""
    answers: list[tuple[float, bool]] = []
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        order = random.Random(number)
        with httpx2.Client(base_url=address, timeout=TIMEOUT) as client:
            while time.perf_counter() < end:
                answers.append(_ask(client, order.choice(questions), rerank=rerank))

    started = time.perf_counter()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(answers) / (time.perf_counter() - started)
    p50, p99 = _percentiles([took for took, _ in answers])
    failed = sum(not good for _, good in answers)
    switch = "on" if rerank else "off"
    print(f"| {switch} | {clients} | {rate:.1f} | {p50:.1f} | {p99:.1f} | {failed} |")


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles([*seconds, *seconds], n=100)
    return cuts[49] * 1000, cuts[98] * 1000


def _soak(
    process: psutil.Process,
    address: str,
    questions: list[str],
    minutes: float,
    rate: float,
) -> None:
    """Ask at a rate, one question in twenty with rerank; print memory each minute."""
    order = random.Random(0)
    asked = failed = 0
    took: list[float] = []
    started = minute = time.perf_counter()
    print("| minute | asked | failed | p50 ms | p99 ms | memory MiB |")
    print("|---|---|---|---|---|---|")
    with httpx2.Client(base_url=address, timeout=TIMEOUT) as client:
        while (now := time.perf_counter()) - started < minutes * 60:
            if now - minute >= 60:
                minute += 60
                _minute(process, int((now - started) // 60), asked, failed, took)
                took = []
            rerank = order.random() < RERANK_SHARE
            seconds, good = _ask(client, order.choice(questions), rerank=rerank)
            took.append(seconds)
            asked += 1
            failed += not good
            time.sleep(max(0.0, started + asked / rate - time.perf_counter()))
    _minute(process, round(minutes), asked, failed, took)


def _minute(
    process: psutil.Process, number: int, asked: int, failed: int, took: list[float]
) -> None:
    p50, p99 = _percentiles(took or [0.0])
    memory = process.memory_info().rss / 2**20
    print(
        f"| {number} | {asked} | {failed} | {p50:.1f} | {p99:.1f} | {memory:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
