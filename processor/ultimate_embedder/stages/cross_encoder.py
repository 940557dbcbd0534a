"""Pairs to scores in batches of like length."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..encoders.pair_batches import length_batches
from ..encoders.protocols import PairScorer
from ..errors import ModelError, UsageError
from ..records import Float32Array


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Scores in the order of the documents, and how they were computed.

    Shapes: `scores` float32 [documents]. `batch_size` is the largest batch seen.
    """

    scores: Float32Array
    batch_size: int
    tokens: int
    padded_tokens: int


class TimeIsUp(Exception):
    """A deadline passed between two batches; what was scored so far is dropped."""


class CrossEncoderBatchExecutor:
    """Scores one query against many documents, at most `batch_cap` pairs at a time.

    Pairs are sorted by token count, so that a batch holds little padding; scores come
    back in the order of the documents.
    """

    def __init__(
        self,
        scorer: PairScorer,
        batch_cap: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if batch_cap < 1:
            raise UsageError(
                f"The rerank batch cap must be at least 1, not {batch_cap}."
            )
        self.scorer = scorer
        self.batch_cap = batch_cap
        self.clock = clock

    def score(
        self, query: str, documents: Sequence[str], *, deadline: float | None = None
    ) -> ScoredPairs:
        """Return the score of each document; `deadline` is a reading of the clock.

        Raises:
            TimeIsUp: the deadline passed before the last batch was begun.
            ModelError: the model gave something that is no finite number.
        """
        pairs = [(query, document) for document in documents]
        lengths = np.asarray(self.scorer.pair_lengths(pairs), dtype=np.int64)
        scores = np.empty(len(pairs), dtype=np.float32)
        padded = 0
        for batch in length_batches(lengths.tolist(), self.batch_cap):
            if deadline is not None and self.clock() >= deadline:
                raise TimeIsUp
            scores[batch] = self.scorer.score([pairs[place] for place in batch])
            padded += self.scorer.padded_tokens(lengths[batch].tolist())
        if not np.isfinite(scores).all():
            raise ModelError(
                f"Reranker {self.scorer.name} gave a score that is no finite number.",
                cure="Run it in float32, or choose another reranker.",
            )
        return ScoredPairs(
            scores=scores,
            batch_size=max(1, min(self.batch_cap, len(pairs))),
            tokens=int(lengths.sum()),
            padded_tokens=padded,
        )
