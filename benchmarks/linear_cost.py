"""Time per chunk of everything but the model, in a small and in a large collection.

Every stage runs over a synthetic collection (fake 384-d vectors, real tokenizer, BM25,
attention vectors, export without FAISS), each size in a process of its own, in turns.
The processor time of a size, divided by its chunks, is compared.

    python -m benchmarks.linear_cost [--turns N] [--sizes 10000 100000] [--json FILE]
"""

from __future__ import annotations

import statistics

from benchmarks import harness
from benchmarks.harness import Aim, Row, Table
from benchmarks.memory_growth import in_child


def measure(sizes: tuple[int, int], turns: int) -> Table:
    """Return the medians of both sizes."""
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(turns):
        for size, seconds in taken.items():
            seconds.append(in_child(size, faiss=False)["processor_seconds"])
    medians = {size: statistics.median(seconds) for size, seconds in taken.items()}
    small, large = (f"{size:,} chunks" for size in sizes)
    return Table(
        "linear-cost",
        "All stages but the model's arithmetic",
        "chunks",
        tuple(
            Row(f"{size:,} chunks", seconds, size / seconds)
            for size, seconds in medians.items()
        ),
        aims=(Aim(large, small, spread=0.1),),
        remark="Processor time of every stage with a fake encoder, export included.",
    )


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=1)
    parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 100_000])
    asked = parser.parse_args()
    return harness.report([measure(tuple(asked.sizes), asked.turns)], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
