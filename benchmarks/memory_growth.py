"""Anonymous memory of a whole run against the number of chunks, with a fake encoder.

For each size a process of its own makes a synthetic collection, runs every stage on it
(fake 384-d vectors, real tokenizer, sparse, probes, rerank off, export) and samples
RssAnon. The index file is written by a library that builds it in memory, so runs with
and without it are shown apart.

    python -m benchmarks.memory_growth [--sizes 20000 200000]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

CHUNKS_A_FILE = 500
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrstlmkd"]
LIMIT_BYTES = int(1.5 * 2**30)
LIMIT_GROWTH_BYTES = 1024


def write_chunks(root: Path, chunks: int) -> None:
    """Write a collection of `chunks` distinct texts of 40 to 120 words."""
    rng = random.Random(chunks)
    folder = root / "synthetic" / "pages"
    folder.mkdir(parents=True)
    for start in range(0, chunks, CHUNKS_A_FILE):
        entries = [
            {
                "text": f"## About {' '.join(rng.choices(WORDS, k=4))} {number}\n\n"
                + " ".join(rng.choices(WORDS, k=rng.randint(40, 120))),
                "metadata": {"section_path": ["a", "b"], "number": number},
            }
            for number in range(start, min(start + CHUNKS_A_FILE, chunks))
        ]
        path = folder / f"page{start:08d}_chunks.json"
        path.write_text(json.dumps(entries), encoding="utf-8")


def rss_anon_bytes() -> int:
    """Return this process's anonymous resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel reports no RssAnon")


class Peak(threading.Thread):
    """Samples RssAnon until the process ends."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0

    def run(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, rss_anon_bytes())
            time.sleep(0.02)


def measure(root: Path, *, faiss: bool) -> dict[str, float]:
    """Run every stage over the collection in `root`; return peak and seconds."""
    from processor.ultimate_embedder.batch_runner import BatchRunner
    from processor.ultimate_embedder.config import PipelineConfig
    from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
    from processor.ultimate_embedder.telemetry.events import silent
    from processor.ultimate_embedder.testing import hashing_parts

    config = PipelineConfig(
        chunked_dir=root,
        output_dir=root / "out",
        dense=(replace(dense_model("all-miniLM-l6"), recommended_batch_size=64),),
        sparse=(sparse_model("qdrant-bm25"), sparse_model("qdrant-minilm-attention")),
        enable_rerank=False,
        exports=("npy", "jsonl", "faiss") if faiss else ("npy", "jsonl"),
        offline=True,
    )
    sampler = Peak()
    sampler.start()
    started, processor = time.perf_counter(), time.process_time()
    outcome = BatchRunner(config, silent, "memory", hashing_parts()).run()
    if outcome.exit_code:
        raise RuntimeError(f"the run failed: {outcome.collections[0].error}")
    return {
        "peak_bytes": sampler.peak_bytes,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
    }


def in_child(chunks: int, *, faiss: bool) -> dict[str, float]:
    """Measure one size in a fresh process."""
    with tempfile.TemporaryDirectory() as scratch:
        write_chunks(Path(scratch), chunks)
        command = [sys.executable, "-m", "benchmarks.memory_growth", "--child", scratch]
        output = subprocess.run(
            [*command, *(["--faiss"] if faiss else [])],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        ).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def main() -> int:
    """Print a table; exit 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=[20_000, 200_000])
    parser.add_argument("--child", type=Path)
    parser.add_argument("--faiss", action="store_true")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, faiss=arguments.faiss)))
        return 0
    broken = False
    for faiss in (False, True):
        peaks = []
        for chunks in arguments.sizes:
            found = in_child(chunks, faiss=faiss)
            peaks.append(found["peak_bytes"])
            name = "with FAISS" if faiss else "without FAISS"
            print(
                f"{name:14} {chunks:9,} chunks  peak RssAnon "
                f"{found['peak_bytes'] / 2**20:8.1f} MiB  {found['seconds']:7.1f} s",
                flush=True,
            )
        small, large = arguments.sizes
        growth = (peaks[1] - peaks[0]) / (large - small)
        print(f"{'':14} growth {growth:,.0f} bytes a chunk", flush=True)
        if not faiss:
            broken = peaks[1] > LIMIT_BYTES or growth > LIMIT_GROWTH_BYTES
    return int(broken)


if __name__ == "__main__":
    raise SystemExit(main())
