"""Reranking one query's candidates: ours against sentence-transformers' CrossEncoder.

The weights are those of the embedded reranker, or of its base where none are shipped:
speed does not depend on them. Candidates are sources of installed packages, each cut to
a number of tokens. The contenders take turns on the same pairs; the medians of seconds
on the clock and of processor time are compared.

    python benchmarks/rerank_speed.py [--turns N] [--candidates N] [--tokens N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer

from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.cross_encoder import TorchCrossEncoder
from processor.ultimate_embedder.encoders.difference_model import (
    base_state,
    export_cross_encoder,
)
from processor.ultimate_embedder.encoders.pair_batches import score_pairs
from processor.ultimate_embedder.encoders.sources import locate_model
from processor.ultimate_embedder.encoders.weight_difference import (
    SHIPPED,
    DifferenceCard,
    write_difference,
)
from processor.ultimate_embedder.hardware import this_machine
from processor.ultimate_embedder.models.catalogue import rerank_model

QUERY = "how are the weights of a reranker found and checked before they are loaded?"
PACKAGE = "transformers"
REFERENCE = "sentence-transformers, as it comes"

Pairs = list[tuple[str, str]]
Contender = Callable[[Pairs], object]


def documents(tokenizer: Tokenizer, tokens: int) -> Iterator[str]:
    """Yield texts of `tokens` tokens, in an order that the installation decides."""
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        for first in range(0, len(offsets) - tokens, tokens):
            yield text[offsets[first][0] : offsets[first + tokens - 1][1]]


def reranker(folder: Path) -> RerankingConfig:
    """Return the embedded reranker; without its weights, one that changes nothing."""
    config = rerank_model("residual-minilm-l6")
    if (SHIPPED / config.name).is_dir():
        return config
    location = locate_model(config.hf_model_id, package=config.package, offline=True)
    card = DifferenceCard(
        base_model=config.hf_model_id,
        base_sha256=config.weights_sha256 or "",
        max_tokens=config.max_tokens,
    )
    base = base_state(location.path)
    write_difference(folder, base, base, card)
    return replace(config, difference=str(folder))


def ours(config: RerankingConfig, **options: object) -> Contender:
    scorer = TorchCrossEncoder.load(config, offline=True, **options)  # type: ignore[arg-type]
    return lambda pairs: score_pairs(scorer, pairs, config.batch_cap)


def theirs(folder: Path, dtype: torch.dtype | None) -> Contender:
    model = CrossEncoder(
        str(folder),
        device="cpu",
        local_files_only=True,
        model_kwargs={} if dtype is None else {"dtype": dtype},
    )
    return lambda pairs: model.predict(pairs, show_progress_bar=False)


def measure(
    contenders: dict[str, Contender], pairs: Pairs, turns: int
) -> dict[str, dict[str, float]]:
    """Return for each contender the median seconds on the clock and of processors."""
    clock: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, score in contenders.items():
            begun = time.perf_counter(), time.process_time()
            score(pairs)
            if turn:  # the first is a warming up
                clock[name].append(time.perf_counter() - begun[0])
                processor[name].append(time.process_time() - begun[1])
    return {
        name: {
            "seconds": statistics.median(clock[name]),
            "best_seconds": min(clock[name]),
            "processor_seconds": statistics.median(processor[name]),
        }
        for name in contenders
    }


def run(turns: int, candidates: int, tokens: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        config = reranker(Path(scratch) / "none")
        config = replace(config, max_tokens=512)
        exported = Path(scratch) / "exported"
        export_cross_encoder(config, exported, offline=True)
        tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
        found = documents(tokenizer, tokens)
        pairs = [
            (QUERY, text) for text, _ in zip(found, range(candidates), strict=False)
        ]
        contenders = {
            "ours": ours(config),
            "ours, one thread": ours(config, threads=1),
            "ours, float32": ours(config, dtype="float32"),
            REFERENCE: theirs(exported, None),
            "sentence-transformers, bfloat16": theirs(exported, torch.bfloat16),
        }
        scorer = TorchCrossEncoder.load(config, offline=True)
        lengths = scorer.pair_lengths(pairs)
        measured = measure(contenders, pairs, turns)
    return {
        "pairs": len(pairs),
        "tokens_a_pair": float(np.mean(lengths)),
        "processor": this_machine().processor,
        "cores": this_machine().cores,
        "dtype": this_machine().cpu_dtype,
        "load_average": os.getloadavg()[0],
        "contenders": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.turns, arguments.candidates, arguments.tokens)
    if arguments.json:
        print(json.dumps(found))
        return
    contenders = found.pop("contenders")
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    reference = contenders[REFERENCE]
    for name, took in contenders.items():
        print(
            f"{name:36} {took['seconds']:6.2f} s (best {took['best_seconds']:.2f}, "
            f"processor {took['processor_seconds']:.2f}) "
            f"{found['pairs'] / took['seconds']:6.1f} pairs/s "
            f"{reference['seconds'] / took['seconds']:5.2f} x as fast, "
            f"{reference['processor_seconds'] / took['processor_seconds']:5.2f} x by "
            "processor time"
        )


if __name__ == "__main__":
    main()
