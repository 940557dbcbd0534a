"""Search in a bundle of many chunks: the time of a query's rankings, and of opening.

The chunks are real texts, repeated with a number of their own where there are fewer;
their dense vectors are random, since speed does not depend on them; queries are encoded
by the real model. Queries are the first words of some chunks.

    python -m benchmarks.search_speed [--turns N] [--chunks N] [--data FOLDER]
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import corpus, harness
from benchmarks.harness import Aim, Row, Table
from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.search import Bundle, open_bundle
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts

QUERY_WORDS = 8
FUSED, OPENED = "dense + sparse + fused", "opening a bundle"


def build(texts: list[str], root: Path) -> Path:
    """Write a bundle of these texts and return its folder."""
    folder = root / "chunks" / "bench"
    folder.mkdir(parents=True)
    entries = [{"text": text} for text in texts]
    (folder / "all_chunks.json").write_text(json.dumps(entries), encoding="utf-8")
    config = PipelineConfig(
        chunked_dir=root / "chunks",
        output_dir=root / "out",
        dense=(replace(dense_model("all-miniLM-l6"), recommended_batch_size=64),),
        sparse=(sparse_model("qdrant-bm25"),),
        enable_rerank=False,
        probes=False,
        exports=("npy", "jsonl"),
        offline=True,
    )
    outcome = BatchRunner(config, silent, "bench", hashing_parts()).run()
    if outcome.exit_code:
        raise RuntimeError(f"no bundle was made: {outcome.collections[0].error}")
    return root / "out" / "bench"


def texts_of(folder: Path | None, count: int) -> list[str]:
    """Return `count` distinct texts."""
    found = corpus.chunks(folder, count)
    again = (
        f"{text}\n\n{number}" for number in range(2, count + 2) for text in list(found)
    )
    while len(found) < count:
        found.append(next(again))
    return found


def rank(bundle: Bundle, queries: list[str]) -> dict[str, list[float]]:
    """Return the seconds of each query's three rankings, and of its ten best hits.

    Processor time beside: it tells more where other work runs.
    """
    names = (FUSED, "the same, processor time", "the same with ten hits")
    taken: dict[str, list[float]] = {name: [] for name in names}
    for query in queries:
        begun, processor = time.perf_counter(), time.process_time()
        found = bundle.search_stages(query, needed=("fused",), rerank=False)
        ranked = time.perf_counter() - begun, time.process_time() - processor
        bundle.hits(found, "fused", 10)
        whole = time.perf_counter() - begun
        for name, seconds in zip(names, (*ranked, whole), strict=True):
            taken[name].append(seconds)
    return taken


def measure(texts: list[str], turns: int) -> Table:
    """Return medians over `turns` queries, and over openings."""
    words = (text.split() for text in texts)
    queries = [" ".join(some[:QUERY_WORDS]) for some in words if len(some) >= 4][:turns]
    with tempfile.TemporaryDirectory() as scratch:
        path = build(texts, Path(scratch))
        opened = harness.take_turns(
            {OPENED: lambda: open_bundle(path, offline=True)}, 10
        )
        with open_bundle(path, offline=True) as bundle:
            rank(bundle, queries[:10])
            taken = rank(bundle, queries)
    rows = harness.rows_of({**taken, **opened}, 1)
    in_order = sorted(taken[FUSED])
    slow = Row(f"{FUSED}, 99th of 100", in_order[int(len(in_order) * 0.99)])
    return Table(
        "search",
        "Search, query encoding included",
        "queries",
        (*rows, slow),
        aims=(Aim(FUSED, at_most_seconds=0.03), Aim(OPENED, at_most_seconds=1.0)),
        remark=f"{len(texts):,} chunks, {len(queries)} queries of up to {QUERY_WORDS} "
        "words, models loaded and files warm.",
    )


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=200)
    parser.add_argument("--chunks", type=int, default=10_000)
    asked = parser.parse_args()
    texts = texts_of(asked.data, asked.chunks)
    return harness.report([measure(texts, asked.turns)], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
