"""Real-size models of random weights under a memory cap, on texts of mixed lengths.

For each model, dense, SPLADE or reranker: the most bytes held on the card against the
cap, tokens a second, the share of padding, passes that had to be split, and what the
planner reckons for the costliest pass beside what was measured. Passes are cut to the
planner's own budget for the cap. Weights are random: speed and memory do not depend on
them. A model is saved to a temporary folder (3 GiB at most) in its published shape and
loaded as a run loads it; nothing is fetched.

    python -m benchmarks.memory_cap --json out.json
    python -m benchmarks.memory_cap --tiny          # small models, a pretended card
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from processor.ultimate_embedder.config import (
    DEFAULT_GPU_MEMORY_CAP_BYTES,
    GIB,
    GPU_ROWS_A_BATCH,
    ModelConfig,
    RerankingConfig,
    SparseModelConfig,
)
from processor.ultimate_embedder.encoders.adaptive import AdaptiveEncoder
from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.encoders.passes import DeviceUse
from processor.ultimate_embedder.encoders.splade_source import find_splade
from processor.ultimate_embedder.memory_cost import (
    Head,
    padded_length,
    planned_peak_bytes,
)
from processor.ultimate_embedder.memory_plan import ModelKind
from processor.ultimate_embedder.memory_room import PlannedRoom
from processor.ultimate_embedder.planning import plan_batches
from processor.ultimate_embedder.stages.cross_encoder import (
    CrossEncoderBatchExecutor,
    SmallerBatches,
)

from .memory_cards import Card, PretendedCard, RealCard
from .memory_models import SHAPES, TINY_SHAPES, WORDS, Shape, save

SHORTEST = 16
PAIRS_A_BATCH = 32
QUERY = "w1 w2 w3"
_HEADS: dict[ModelKind, Head] = {
    "dense": "none",
    "sparse": "masked-lm",
    "rerank": "classifier",
}
_BESIDE: dict[ModelKind, int] = {"dense": 2, "sparse": 2, "rerank": 6}
"""Tokens that are not words of a text: special ones, the query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one model took; bytes are bytes, the CUDA context included."""

    model: str
    kind: ModelKind
    device: str
    dtype: str
    parameters: int
    texts: int
    tokens: int
    longest: int
    passes: int
    largest_pass: int
    cap_bytes: int
    peak_bytes: int
    after_bytes: int
    within_cap: bool
    estimated_bytes: int
    estimate_error: float
    padding_ratio: float
    oom_retries: int
    seconds: float
    tokens_per_second: float


@dataclass(slots=True)
class Work:
    """What was done: rows and positions of each pass, failures, time."""

    shapes: list[tuple[int, int]]
    retries: int = 0
    seconds: float = 0.0


def mixed_lengths(number: int, longest: int, seed: int = 0) -> list[int]:
    """Return lengths spread evenly by their logarithm; some are the longest."""
    draw = random.Random(seed)
    low, high = math.log(SHORTEST), math.log(longest)
    drawn = [round(math.exp(draw.uniform(low, high))) for _ in range(number - 2)]
    return [longest, longest, *drawn]


def measure(
    name: str, shape: Shape, card: Card, *, cap_bytes: int, texts: int
) -> Measured:
    """Compute texts of random words and return what it took.

    Raises:
        DeviceOutOfMemory: a text alone does not fit under the cap.
    """
    lengths = mixed_lengths(texts, shape.window)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parameters = save(folder, shape)
        card.begin(cap_bytes)
        room = PlannedRoom(
            model=name,
            kind=shape.kind,
            architecture=read_architecture(folder, _HEADS[shape.kind]),
            dtype=card.dtype,
            cap_bytes=cap_bytes,
        )
        work = _RUNS[shape.kind](folder, shape, card, room, lengths)
    peak, estimated = card.peak_bytes(), _estimate(room, work.shapes)
    tokens = sum(lengths)
    return Measured(
        model=name,
        kind=shape.kind,
        device=card.name,
        dtype=card.dtype,
        parameters=parameters,
        texts=len(lengths),
        tokens=tokens,
        longest=max(lengths),
        passes=len(work.shapes),
        largest_pass=max(taken for _, taken in work.shapes),
        cap_bytes=cap_bytes,
        peak_bytes=peak,
        after_bytes=card.used_bytes(),
        within_cap=peak <= cap_bytes,
        estimated_bytes=estimated,
        estimate_error=estimated / peak - 1,
        padding_ratio=sum(taken for _, taken in work.shapes) / tokens - 1,
        oom_retries=work.retries,
        seconds=work.seconds,
        tokens_per_second=tokens / work.seconds,
    )


def _estimate(room: PlannedRoom, shapes: Sequence[tuple[int, int]]) -> int:
    """Return what the planner reckons for the costliest pass, context included."""
    assert room.architecture is not None
    return max(
        planned_peak_bytes(
            room.architecture, room.dtype, rows=rows, length=taken // rows
        )
        for rows, taken in set(shapes)
    )


def _dense(
    folder: Path, shape: Shape, card: Card, room: PlannedRoom, lengths: Sequence[int]
) -> Work:
    config = ModelConfig(
        name=room.model,
        hf_model_id=str(folder),
        vector_dim=shape.make().hidden_size,
        max_tokens=shape.window,
        pooling=shape.pooling,
    )
    padded = [padded_length(length, shape.window) for length in lengths]
    budget = room.positions(max(padded))
    plan = plan_batches(
        np.array(padded),
        np.arange(len(padded)),
        budget_tokens=budget,
        max_rows=GPU_ROWS_A_BATCH,
    )
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, WORDS, length, dtype=np.uint32) for length in lengths]
    encoder = card.dense(folder, config)
    passes = AdaptiveEncoder(encoder, room.model, budget_tokens=budget)
    work = Work([])
    started = time.perf_counter()
    for number in range(len(plan)):
        batch = plan.batch(number).tolist()
        assert np.isfinite(passes.encode([ids[row] for row in batch])).all()
        cost = passes.take_cost()
        work.retries += cost.oom_retries
        work.shapes += [(rows, rows * padded[batch[0]]) for rows in cost.rows]
    work.seconds = time.perf_counter() - started
    return work


def _splade(
    folder: Path, shape: Shape, card: Card, room: PlannedRoom, lengths: Sequence[int]
) -> Work:
    config = SparseModelConfig(
        name=room.model,
        kind="splade",
        hf_model_id=str(folder),
        max_tokens=shape.window,
    )
    source = find_splade(config, device=card.device, dtype=card.dtype, offline=True)
    work = Work([])
    with closing(card.splade(source, _use(card, room))) as encoder:
        forward = encoder.forward

        def noted(pieces: Any) -> Any:
            found = forward(pieces)
            longest = padded_length(max(map(len, pieces)), shape.window)
            work.shapes.append((len(pieces), len(pieces) * longest))
            return found

        encoder.forward = noted  # type: ignore[method-assign]
        started = time.perf_counter()
        for batch in encoder.batches(_texts(lengths, "sparse")):
            work.retries += batch.oom_retries
        work.seconds = time.perf_counter() - started
    return work


def _rerank(
    folder: Path, shape: Shape, card: Card, room: PlannedRoom, lengths: Sequence[int]
) -> Work:
    config = RerankingConfig(
        name=room.model, hf_model_id=str(folder), max_tokens=shape.window
    )
    scorer = card.scorer(config)
    score = scorer.score
    work = Work([])

    def noted(pairs: Any) -> Any:
        found = score(pairs)
        taken = scorer.padded_tokens(scorer.pair_lengths(pairs))
        work.shapes.append((len(pairs), taken))
        return found

    def failed(_: SmallerBatches) -> None:
        work.retries += 1

    scorer.score = noted  # type: ignore[method-assign]
    executor = CrossEncoderBatchExecutor(scorer, PAIRS_A_BATCH, use=_use(card, room))
    started = time.perf_counter()
    executor.score(QUERY, _texts(lengths, "rerank"), tell=failed)
    work.seconds = time.perf_counter() - started
    return work


_RUNS: dict[ModelKind, Callable[..., Work]] = {
    "dense": _dense,
    "sparse": _splade,
    "rerank": _rerank,
}


def _use(card: Card, room: PlannedRoom) -> DeviceUse:
    return DeviceUse(
        model=room.model,
        device=card.device,
        used_bytes=card.peak_bytes,
        cap_bytes=room.cap_bytes,
        room=room,
    )


def _texts(lengths: Sequence[int], kind: ModelKind) -> list[str]:
    """Return texts that have these lengths in tokens."""
    draw = random.Random(0)
    words = [f"w{number}" for number in range(WORDS)]
    return [" ".join(draw.choices(words, k=one - _BESIDE[kind])) for one in lengths]


def run(
    *,
    tiny: bool,
    device: str = "cuda:0",
    cap_bytes: int = DEFAULT_GPU_MEMORY_CAP_BYTES,
    texts: int = 256,
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the figures of each model, with the date and the versions."""
    shapes = TINY_SHAPES if tiny else SHAPES
    card: Card = PretendedCard() if tiny else RealCard(device)
    measured = [
        measure(name, shapes[name], card, cap_bytes=cap_bytes, texts=texts)
        for name in models or shapes
    ]
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "models": [asdict(one) for one in measured],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each model, write JSON; 1 if a peak is over the cap."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="on a pretended card")
    parser.add_argument("--device", default="cuda:0", help="default cuda:0")
    parser.add_argument("--cap", type=float, default=12.0, help="GiB a card (12)")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--models", nargs="*", default=[], help="default: all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args(arguments)
    if not chosen.tiny and not torch.cuda.is_available():
        print("There is no CUDA device here; --tiny runs without.", file=sys.stderr)
        return 2
    found = run(
        tiny=chosen.tiny,
        device=chosen.device,
        cap_bytes=int(chosen.cap * GIB),
        texts=chosen.texts,
        models=chosen.models,
    )
    for one in found["models"]:
        print(
            f"{one['model']}: peak {one['peak_bytes'] / GIB:.2f} GiB of "
            f"{one['cap_bytes'] / GIB:.2f}, reckoned {one['estimate_error']:+.1%}, "
            f"{one['tokens_per_second']:.0f} tokens/s, "
            f"padding {one['padding_ratio']:.1%}, {one['oom_retries']} retries"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(not all(one["within_cap"] for one in found["models"]))


if __name__ == "__main__":
    sys.exit(main())
