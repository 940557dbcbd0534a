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
    """Scores in the order of the documents, and how they were computed.

    Shapes: `scores` float32 [documents]. `batch_size` is the largest batch that went
    through.
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
    """Scores one query against many documents, at most `batch_cap` pairs at a time.

    Pairs are sorted by token count, so that a batch holds little padding; scores come
    back in the order of the documents. A batch that does not fit the device is done
    again in halves; `Budget` says how batches grow back to the cap. `use` tells what is
    known of the device: no batch is larger than planned for it, and no pair is tried
    that is planned not to fit.
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
        """Return the score of each document; `deadline` is a reading of the clock.

        `tell` hears of every batch that did not fit.

        Raises:
            TimeIsUp: the deadline passed before the last batch was begun.
            DeviceOutOfMemory: one pair alone does not fit; `row` is its place.
            ModelError: the model gave something that is no finite number.
        """
        pairs = [(query, document) for document in documents]
        lengths = np.asarray(self.scorer.pair_lengths(pairs), dtype=np.int64)
        order = np.argsort(lengths, kind="stable")
        self._require_room(order, lengths)
        scores = np.empty(len(pairs), dtype=np.float32)
        padded, largest, start = 0, 1, 0
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
            padded += self.scorer.padded_tokens(lengths[batch].tolist())
            largest, start = max(largest, len(batch)), start + len(batch)
        if not np.isfinite(scores).all():
            raise ModelError(
                f"Reranker {self.scorer.name} gave a score that is no finite number.",
                cure="Run it in float32, or choose another reranker.",
            )
        return ScoredPairs(
            scores=scores,
            batch_size=largest,
            tokens=int(lengths.sum()),
            padded_tokens=padded,
        )

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
