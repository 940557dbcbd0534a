"""Where the seconds of a whole default run go, against what the machine could do.

The main job runs once over real chunks as a user would run it. Its stages come from its
log, what the workers computed from its manifest. Two floors are measured here: products
of the model's own shapes on every core at once, and a file written and synced.

    python -m benchmarks.run_profile [--chunks N] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import corpus, harness
from benchmarks.harness import Aim, Row, Table
from processor.ultimate_embedder.encoders.bert_layer import product
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.hardware import this_machine

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "embed_collections_v6.py"
NAME = "bench"
LAYERS, WIDTH, WIDE = 6, 384, 1536  # of all-MiniLM-L6-v2
SHAPES = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, WIDE), (WIDE, WIDTH))
ROWS, SECONDS = 176, 1.0  # of a product; of a measurement on a core
DISK_BYTES = 64 * 2**20
WHOLE, PART, PASSES = "the whole run", "dense + sparse + export", "dense: passes"


@dataclass(frozen=True, slots=True)
class Found:
    """A run's seconds by stage, its manifest, and how many bytes it left."""

    seconds: float
    stages: Mapping[str, float]
    manifest: Manifest
    bytes: int


def run(texts: list[str], root: Path) -> Found:
    """Make a bundle of the texts in a process of its own."""
    folder = root / "chunks" / NAME
    folder.mkdir(parents=True)
    entries = json.dumps([{"text": text} for text in texts])
    (folder / "all_chunks.json").write_text(entries, encoding="utf-8")
    command = [
        *(sys.executable, str(SCRIPT), "--log-format", "json", "--offline"),
        *("--chunked-dir", str(root / "chunks"), "--output-dir", str(root / "out")),
    ]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"The run ended with {done.returncode}: {done.stderr[-500:]}")
    stages: dict[str, float] = {}
    for entry in events(done.stderr):
        if entry["event"] == "stage_finished":
            name = entry["stage"]
            stages[name] = stages.get(name, 0.0) + entry["seconds"]
    left = sum(one.stat().st_size for one in root.rglob("out/**/*") if one.is_file())
    return Found(seconds, stages, Manifest.read(root / "out" / NAME), left)


def events(log: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a log."""
    for line in log.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def multiplied_a_second(dtype: torch.dtype) -> float:
    """Return the floating point operations that products of the model do a second.

    Every core multiplies by itself, all at once, as the workers do.
    """

    def one_core(_: int) -> float:
        with torch.inference_mode():
            multiply = [
                (torch.randn(ROWS, a, dtype=dtype), product(*_weights(a, b, dtype)))
                for a, b in SHAPES
            ]
            rounds, begun = 0, time.perf_counter()
            while (took := time.perf_counter() - begun) < SECONDS:
                for states, one in multiply:
                    one(states)
                rounds += 1
        return rounds * 2 * ROWS * sum(a * b for a, b in SHAPES) / took

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = this_machine().cores
    with ThreadPoolExecutor(
        cores, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        list(pool.map(one_core, range(cores)))  # makes the kernels
        found = sum(pool.map(one_core, range(cores)))
    torch.set_num_threads(before)
    return found


def _weights(
    inputs: int, outputs: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(outputs, inputs, dtype=dtype), torch.zeros(outputs, dtype=dtype)


def written_a_second(folder: Path) -> float:
    """Return the bytes a second of a file that is written and synced; best of 3."""
    data, rates = os.urandom(DISK_BYTES), []
    for _ in range(3):
        begun = time.perf_counter()
        with (folder / "probe").open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        rates.append(DISK_BYTES / (time.perf_counter() - begun))
    return max(rates)


def rows(found: Found, flops: float, disk: float) -> Iterator[Row]:
    """Yield what a run took, and what it would take at least."""
    (dense,) = found.manifest.dense_run or ()
    cores = this_machine().cores
    stages = found.stages
    chunks, seconds = found.manifest.chunk_count, found.seconds
    passes = dense.statistics["compute_seconds"] / cores
    matrices = 2 * LAYERS * sum(a * b for a, b in SHAPES) * dense.tokens / flops
    part = sum(stages[name] for name in ("dense", "sparse", "export"))
    yield Row(WHOLE, seconds, chunks / seconds, 1.0)
    yield Row(PART, part, chunks / part)
    shares = {
        PASSES: passes,
        "of which products, at the measured rate": matrices,
        "dense: starting workers, waiting, checking": stages["dense"] - passes,
        "sparse": stages["sparse"],
        "export": stages["export"],
        "its bytes at the disk's rate": found.bytes / disk,
        "reading and tokenising": stages["read"],
        "probes, ranked by every model": stages["fusion"],
        "rerank": stages["rerank"],
        "program start and the rest": seconds - sum(stages.values()),
    }
    for name, took in shares.items():
        yield Row(name, took, chunks / took, took / seconds)


def measure(folder: Path | None, count: int) -> Table:
    """Return the table of one run over `count` chunks."""
    texts = corpus.chunks(folder, count)
    with tempfile.TemporaryDirectory() as scratch:
        found = run(texts, Path(scratch))
        disk = written_a_second(Path(scratch))
    (dense,) = found.manifest.dense_run or ()
    flops = multiplied_a_second(getattr(torch, dense.dtype))
    return Table(
        "run-profile",
        "Where the seconds of a default run go",
        "chunks",
        tuple(rows(found, flops, disk)),
        aims=(Aim(PART, PASSES, at_least=0.8),),
        remark=f"{len(texts):,} chunks of {dense.tokens / len(texts):.0f} tokens, "
        f"{dense.dtype}. The ratio is the share of the whole run. Products of the "
        f"model's shapes: {flops / 1e9:,.0f} GFLOP/s on all cores; disk "
        f"{disk / 1e6:,.0f} MB/s synced; {found.bytes / 1e6:,.0f} MB left behind.",
    )


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=1)
    parser.add_argument("--chunks", type=int, default=10_000)
    asked = parser.parse_args()
    return harness.report([measure(asked.data, asked.chunks)], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
