"""Scores a query's candidates on a device that may be too small for all of them.

Where memory fails, batches are halved first; then, with one pair alone too large, the
candidates, down to what is kept; then a smaller model takes over where one is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..config import RerankingConfig
from ..errors import DeviceOutOfMemory
from ..records import RankedList
from ..telemetry.events import Emit, FallbackUsed, MemoryRetried
from .cross_encoder import CrossEncoderBatchExecutor, ScoredPairs, SmallerBatches

OpenFallback = Callable[[], tuple[CrossEncoderBatchExecutor, RerankingConfig]]
"""Loads the smaller model; called when the larger one is let go."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """What loads the smaller model, None where there is none or it is in use already.

    `steps` are the reasons for what was done less well before the first query.
    """

    open: OpenFallback | None = None
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, its candidates as fusion ranked them, and what gives a row's text."""

    query: str
    fused: RankedList
    text: Callable[[int], str]

    def first(self, count: int) -> RankedList:
        """Return at most `count` candidates."""
        return RankedList(self.fused.rows[:count], self.fused.scores[:count])

    def texts(self, candidates: RankedList) -> list[str]:
        """Return the texts of candidates."""
        return [self.text(int(row)) for row in candidates.rows]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The candidates that were scored, by which model, and their scores."""

    candidates: RankedList
    scored: ScoredPairs
    config: RerankingConfig


@dataclass(frozen=True, slots=True)
class _NoRoom:
    """What a failure said, without the memory that the failure itself holds on to."""

    message: str
    cure: str | None
    place: int


class FittingScorer:
    """Scores candidates, and steps down where the device has no room.

    Smaller batches and another model stay for the queries that follow; candidates are
    reduced for one query alone. Each step is an event, and stands in `steps`.
    """

    def __init__(
        self,
        executor: CrossEncoderBatchExecutor,
        config: RerankingConfig,
        emit: Emit,
        fallback: Fallback,
    ) -> None:
        self.executor = executor
        self.config = config
        self.steps = list(fallback.steps)
        self.oom_retries = 0
        self._emit = emit
        self._open_fallback = fallback.open

    def score_together(
        self, asked: Sequence[Asked], collection: str
    ) -> list[Fitted] | None:
        """Return what `score` does of each query, their pairs in the same batches.

        None: a pair alone does not fit, so that each query needs steps of its own. What
        was scored until then is known to a scorer that keeps scores.

        Raises:
            ModelError: the model failed.
        """
        count = self.config.candidates
        candidates = [one.first(count) for one in asked]
        texts = [
            (one.query, one.texts(found))
            for one, found in zip(asked, candidates, strict=True)
        ]
        try:
            scored = self.executor.score_together(texts, tell=self._teller(collection))
        except DeviceOutOfMemory:
            return None
        return [
            Fitted(found, scores, self.config)
            for found, scores in zip(candidates, scored, strict=True)
        ]

    def score(
        self,
        asked: Asked,
        chunk_id: Callable[[int], str],
        collection: str,
        deadline: float | None,
    ) -> Fitted:
        """Return the scores of the first candidates of a fused list.

        Raises:
            TimeIsUp: the deadline passed.
            DeviceOutOfMemory: nothing smaller is left; the message names the chunk.
            ModelError: a model failed, or the smaller one cannot be loaded.
        """
        count = self.config.candidates
        while True:
            candidates = asked.first(count)
            texts = asked.texts(candidates)
            found = self._try(asked.query, texts, collection, deadline)
            if isinstance(found, ScoredPairs):
                return Fitted(candidates, found, self.config)
            fewer = max(self.config.top_k, len(candidates) // 2)
            if fewer < len(candidates):
                count = fewer
                self._stepped_down(f"{fewer} candidates", collection)
            elif self._open_fallback is not None:
                self._take_fallback(self._open_fallback, collection)
                count = self.config.candidates
            else:
                row = int(candidates.rows[found.place])
                raise DeviceOutOfMemory(
                    f"{found.message} Its document is chunk {chunk_id(row)}.",
                    cure=found.cure,
                    row=row,
                )

    def _try(
        self,
        query: str,
        texts: Sequence[str],
        collection: str,
        deadline: float | None,
    ) -> ScoredPairs | _NoRoom:
        try:
            return self.executor.score(
                query, texts, deadline=deadline, tell=self._teller(collection)
            )
        except DeviceOutOfMemory as error:
            return _NoRoom(error.message, error.cure, error.row or 0)

    def _teller(self, collection: str) -> Callable[[SmallerBatches], None]:
        """Return what hears of batches that did not fit."""

        def smaller(batches: SmallerBatches) -> None:
            self.oom_retries += 1
            self._emit(
                MemoryRetried(
                    stage="rerank",
                    model=self.config.name,
                    device=self.executor.scorer.device,
                    budget_tokens=batches.tokens,
                )
            )
            self._stepped_down(f"batches of {batches.pairs} pairs", collection)

        return smaller

    def _take_fallback(self, open_fallback: OpenFallback, collection: str) -> None:
        self._open_fallback = None
        clock = self.executor.clock
        del self.executor  # so that the larger model is gone when the other one comes
        self.executor, self.config = open_fallback()
        self.executor.clock = clock
        self._stepped_down(f"model {self.config.name}", collection)

    def _stepped_down(self, to: str, collection: str) -> None:
        reason = stepped_down_to(to)
        if reason not in self.steps:
            self.steps.append(reason)
        self._emit(FallbackUsed(stage="rerank", collection=collection, reason=reason))


def stepped_down_to(what: str) -> str:
    """Return the reason that stands for a step down to something smaller."""
    return f"out of memory: {what}"
