"""Reranking one query's candidates: ours against sentence-transformers' CrossEncoder.

The weights are those of the embedded reranker, or of its base where none are shipped:
speed does not depend on them. Both get the same pairs, turns in alternation.

    python -m benchmarks.rerank_speed [--turns N] [--candidates N] [--data FOLDER]
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer

from benchmarks import corpus, harness
from benchmarks.harness import Aim, Table
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
from processor.ultimate_embedder.models.catalogue import rerank_model
from processor.ultimate_embedder.records import Float32Array

QUERY = "how are the weights of a reranker found and checked before they are loaded?"
REFERENCE = "CrossEncoder.predict, float32"

Pairs = list[tuple[str, str]]
Contender = Callable[[Pairs], Any]


def candidates(folder: Path | None, tokenizer: Tokenizer, tokens: int) -> Iterator[str]:
    """Yield stretches of real texts of 64 to `tokens` tokens, long ones more often."""
    lengths = random.Random(1)
    for text in corpus.documents(folder, "Python"):
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        first = 0
        while first + tokens < len(offsets):
            last = first + max(lengths.randint(64, tokens), lengths.randint(64, tokens))
            yield text[offsets[first][0] : offsets[last - 1][1]]
            first = last


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


def run(folder: Path | None, turns: int, count: int, tokens: int) -> Table:
    """Return medians of scoring `count` candidates of one query."""
    with tempfile.TemporaryDirectory() as scratch:
        config = replace(reranker(Path(scratch) / "none"), max_tokens=512)
        exported = Path(scratch) / "exported"
        export_cross_encoder(config, exported, offline=True)
        tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
        texts = islice(candidates(folder, tokenizer, tokens), count)
        pairs = [(QUERY, text) for text in texts]
        contenders = {
            "ours": ours(config),
            "ours, one thread": ours(config, threads=1),
            "ours, float32": ours(config, dtype="float32"),
            REFERENCE: theirs(exported, None),
            "CrossEncoder.predict, bfloat16": theirs(exported, torch.bfloat16),
        }
        seconds = harness.take_turns(
            {name: partial(score, pairs) for name, score in contenders.items()}, turns
        )
        agreement = agree(contenders["ours"](pairs), contenders[REFERENCE](pairs))
        lengths = TorchCrossEncoder.load(config, offline=True).pair_lengths(pairs)
    return Table(
        "rerank",
        "Reranking one query's candidates",
        "pairs",
        harness.rows_of(seconds, len(pairs), REFERENCE),
        reference=REFERENCE,
        aims=(Aim("ours", REFERENCE, at_least=3.0),),
        remark=f"{len(pairs)} pairs of {np.mean(lengths):.0f} tokens on average, all "
        f"cores for each unless it says one thread. {agreement}",
    )


def agree(mine: Float32Array, theirs: Float32Array) -> str:
    """Say how far scores are apart, and how far those are that change places."""
    mine, theirs = mine.astype(np.float64), theirs.astype(np.float64).reshape(-1)
    ahead = theirs[:, None] - theirs[None, :]
    swapped = ahead[(ahead > 0) & (mine[:, None] < mine[None, :])]
    return (
        f"Scores differ by {np.abs(mine - theirs).max():.1e} at most, {mine.std():.1f} "
        "being their deviation; those of pairs that change places by "
        f"{swapped.max(initial=0.0):.1e} at most."
    )


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=5)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=230)
    asked = parser.parse_args()
    table = run(asked.data, asked.turns, asked.candidates, asked.tokens)
    return harness.report([table], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
