"""Pairs to scores in batches of like length, smaller ones where memory fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..encoders.budget import Budget
from ..encoders.passes import DeviceUse
from ..encoders.protocols import PairScorer
from ..errors import DeviceOutOfMemory, ModelError, UsageError
from ..records import Float32Array, Int64Array


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Scores in the order of a query's documents, and how they were computed.

    Shapes: `scores` float32 [documents]. `batch_size` is the largest batch that went
    through. `padded_tokens` are a query's share of its batches.
    """

    scores: Float32Array
    batch_size: int
    tokens: int
    padded_tokens: int


@dataclass(frozen=True, slots=True)
class SmallerBatches:
    """A batch did not fit: from now on no more than `pairs`, of so many `tokens`."""

    pairs: int
    tokens: int


class TimeIsUp(Exception):
    """A deadline passed between two batches; what was scored so far is dropped."""


class CrossEncoderBatchExecutor:
    """Scores queries against documents, at most `batch_cap` pairs at a time.

    Pairs are sorted by token count, those of all queries of a call together, so that a
    batch holds little padding; scores come back in the order of the documents. A batch
    that does not fit the device is done again in halves; `Budget` says how batches grow
    back to the cap. `use` tells what is known of the device: no batch is larger than
    planned for it, and no pair is tried that is planned not to fit.
    """

    def __init__(
        self,
        scorer: PairScorer,
        batch_cap: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        use: DeviceUse | None = None,
    ) -> None:
        if batch_cap < 1:
            raise UsageError(
                f"The rerank batch cap must be at least 1, not {batch_cap}."
            )
        self.scorer = scorer
        self.batch_cap = batch_cap
        self.clock = clock
        self.use = use or DeviceUse(model=scorer.name, device=scorer.device)
        self._budget = Budget(batch_cap)

    def score(
        self,
        query: str,
        documents: Sequence[str],
        *,
        deadline: float | None = None,
        tell: Callable[[SmallerBatches], None] = lambda _: None,
    ) -> ScoredPairs:
        """Return the score of each document of one query, as `score_together` does."""
        (scored,) = self.score_together(
            [(query, documents)], deadline=deadline, tell=tell
        )
        return scored

    def score_together(
        self,
        asked: Sequence[tuple[str, Sequence[str]]],
        *,
        deadline: float | None = None,
        tell: Callable[[SmallerBatches], None] = lambda _: None,
    ) -> list[ScoredPairs]:
        """Return the scores of queries, each with its documents.

        `deadline` is a reading of the clock; `tell` hears of every batch that did not
        fit.

        Raises:
            TimeIsUp: the deadline passed before the last batch was begun.
            DeviceOutOfMemory: one pair alone does not fit; `row` is its place among
                all pairs.
            ModelError: the model gave something that is no finite number.
        """
        pairs = [(query, text) for query, texts in asked for text in texts]
        lengths = np.asarray(self.scorer.pair_lengths(pairs), dtype=np.int64)
        order = np.argsort(lengths, kind="stable")
        self._require_room(order, lengths)
        scores = np.empty(len(pairs), dtype=np.float32)
        shares = np.empty(len(pairs))  # of the positions computed
        largest, start = 1, 0
        while start < len(order):
            if deadline is not None and self.clock() >= deadline:
                raise TimeIsUp
            batch = self._batch(order[start:], lengths)
            found = self._scored(pairs, batch, lengths)
            if found is None:
                self.use.release()
                self._budget.failed(len(batch))
                now = self._budget.now or 1
                tell(SmallerBatches(now, now * int(lengths[batch].max())))
                continue
            self._budget.succeeded(len(batch))
            scores[batch] = found
            padded = self.scorer.padded_tokens(lengths[batch].tolist())
            shares[batch] = padded / len(batch)
            largest, start = max(largest, len(batch)), start + len(batch)
        if not np.isfinite(scores).all():
            raise ModelError(
                f"Reranker {self.scorer.name} gave a score that is no finite number.",
                cure="Run it in float32, or choose another reranker.",
            )
        ends = np.cumsum([len(texts) for _, texts in asked])
        return [
            ScoredPairs(
                scores=scores[end - len(texts) : end],
                batch_size=largest,
                tokens=int(lengths[end - len(texts) : end].sum()),
                padded_tokens=round(shares[end - len(texts) : end].sum()),
            )
            for (_, texts), end in zip(asked, ends.tolist(), strict=True)
        ]

    def _require_room(self, order: Int64Array, lengths: Int64Array) -> None:
        """Refuse pairs of which the longest is planned not to fit.

        Raises:
            DeviceOutOfMemory: `row` is its place.
        """
        if self.use.room is None or not len(order):
            return
        place = int(order[-1])
        positions = self.scorer.padded_tokens([int(lengths[place])])
        if not self.use.room.holds(positions):
            raise self.use.room.refusal(positions, row=place, beforehand=False)

    def _batch(self, left: Int64Array, lengths: Int64Array) -> Int64Array:
        """Return the first of the places left: as many as may go through at once."""
        batch = left[: self._budget.now or 1]
        while len(batch) > 1 and not self._is_planned(lengths[batch].tolist()):
            batch = batch[:-1]
        return batch

    def _is_planned(self, lengths: list[int]) -> bool:
        """Say whether pairs of these lengths, the longest last, are planned to fit."""
        if self.use.room is None:
            return True
        longest = self.scorer.padded_tokens(lengths[-1:])
        return self.scorer.padded_tokens(lengths) <= self.use.room.positions(longest)

    def _scored(
        self, pairs: Sequence[tuple[str, str]], batch: Int64Array, lengths: Int64Array
    ) -> Float32Array | None:
        """Return the batch's scores, None where it can be halved and has to be."""
        try:
            return self.scorer.score([pairs[place] for place in batch])
        except DeviceOutOfMemory as error:
            if len(batch) > 1:
                return None
            place = int(batch[0])
            raise DeviceOutOfMemory(
                f"Reranker {self.scorer.name} ran out of memory on "
                f"{self.scorer.device} with one pair of {lengths[place]} tokens alone"
                f"{self.use.told()}.",
                cure="Free the device, name a smaller model with --rerank-fallback, or "
                "use --disable-rerank. The same command resumes.",
                row=place,
            ) from error
