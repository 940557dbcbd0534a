"""Batches of like length: little padding, and no more pairs than allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..records import Float32Array, Int64Array
from .protocols import PairScorer


def length_batches(lengths: Sequence[int], cap: int) -> Iterator[Int64Array]:
    """Yield the places of at most `cap` pairs at a time, shortest pairs first."""
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    for start in range(0, len(order), cap):
        yield order[start : start + cap]


def score_pairs(
    scorer: PairScorer, pairs: Sequence[tuple[str, str]], cap: int
) -> Float32Array:
    """Return float32 [pairs] in the order given, scored in batches of like length."""
    scores = np.empty(len(pairs), dtype=np.float32)
    for batch in length_batches(scorer.pair_lengths(pairs), cap):
        scores[batch] = scorer.score([pairs[place] for place in batch])
    return scores
