"""What durability costs: the share of a run that waits for the disk.

Runs the main job over the chunk files of a folder with the embedded model in this
process, and adds up the time of every `fsync` and `fdatasync`, of every mark in the
ledger and of every digest of what is kept. Without durability these would be nothing;
all else would stay.

    python -m benchmarks.durability_cost CHUNKED_DIR [--collection NAME] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.hardware import this_machine
from processor.ultimate_embedder.ledger import Ledger
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.stages.kept_outputs import KeptOutput
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process


class Clock:
    """Adds up the seconds and the number of some calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def timed(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that is counted."""

        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return real(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started
                self.calls += 1

        return call


def parts() -> Parts:
    """Return parts with the real model in this process."""
    models = ModelManager(offline=True)

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        with models.resident(job.model) as encoder:
            yield encoder

    fake = hashing_parts()
    return Parts(
        models=models,
        open_executor=in_process(open_encoder),
        load_scorer=fake.load_scorer,
        device="cpu",
        now=fake.now,
    )


def main() -> None:
    """Run once and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chunked_dir", type=Path)
    parser.add_argument("--collection")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    syncs, marks, digests = Clock(), Clock(), Clock()
    os.fsync, os.fdatasync = syncs.timed(os.fsync), syncs.timed(os.fdatasync)
    Ledger.mark = marks.timed(Ledger.mark)  # type: ignore[method-assign]
    KeptOutput.digest = digests.timed(KeptOutput.digest)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        config = PipelineConfig(
            chunked_dir=options.chunked_dir,
            output_dir=Path(folder),
            collections=(options.collection,) if options.collection else (),
            dense=(dense_model("all-miniLM-l6"),),
            sparse=(sparse_model("qdrant-bm25"),),
            enable_rerank=False,
            offline=True,
        )
        started = time.perf_counter()
        outcome = BatchRunner(config, silent, "benchmark", parts()).run()
        seconds = time.perf_counter() - started
    chunks = sum(
        one.manifest.chunk_count for one in outcome.collections if one.manifest
    )
    durable = syncs.seconds + marks.seconds + digests.seconds
    figures = {
        "processor": this_machine().processor,
        "chunks": chunks,
        "seconds": round(seconds, 2),
        "syncs": syncs.calls,
        "sync_seconds": round(syncs.seconds, 3),
        "marks": marks.calls,
        "mark_seconds": round(marks.seconds, 3),
        "digest_seconds": round(digests.seconds, 3),
        "share": round(durable / seconds, 4),
    }
    print(json.dumps(figures, indent=1) if options.json else figures)


if __name__ == "__main__":
    main()
