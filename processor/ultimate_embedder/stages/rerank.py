"""The rerank stage: a CrossEncoder reads the fused candidates and orders them anew.

Its logits decide alone, or join the fused scores where the reranker has a blend.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..config import RerankingConfig
from ..memory_plan import Calibration
from ..records import (
    QUERY_PREVIEW_CHARACTERS,
    Chunk,
    CrossEncoderRerankRun,
    Query,
    RankedList,
)
from ..retrieval.blend import BlendConfig, blend
from ..telemetry.events import (
    BatchFinished,
    Emit,
    FallbackUsed,
    StageFinished,
    StageStarted,
)
from .cross_encoder import CrossEncoderBatchExecutor, TimeIsUp
from .fusion import QueryRankings
from .rerank_fitting import Asked, Fallback, Fitted, FittingScorer

TIMEOUT = "timeout"
_PAIRS_TOGETHER = 1024  # sorted over so many, padding is 3 % where it was 25 %
_NO_FALLBACK = Fallback()


class ChunkRows(Protocol):
    """A collection's chunks by row; a `ChunkStore` is one."""

    def chunk(self, row: int) -> Chunk:
        """Return the chunk of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankedQuery:
    """One query's new order: the best rows with the scores of every stage.

    `model` scored it, `candidates` of them; its `blend` joined logits and fused scores.
    """

    query: Query
    ranking: RankedList
    header: CrossEncoderRerankRun
    model: str
    blend: BlendConfig | None
    candidates: int
    record: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankResult:
    """What the stage did. `not_reranked` counts queries left as fusion ranked them.

    `config` is of the reranker begun with: a smaller one where the first had no room.
    `fallback_reason` lists what it did less well than asked for: what memory did not
    allow, step by step, and what time did not. `oom_retries` counts halved batches.
    """

    config: RerankingConfig
    queries: tuple[RerankedQuery, ...]
    candidates: int
    device: str = "cpu"
    not_reranked: int = 0
    fallback_reason: str | None = None
    oom_retries: int = 0
    calibration: Calibration | None = None

    @property
    def model(self) -> str:
        """Key of the reranker begun with."""
        return self.config.name

    @property
    def blends(self) -> dict[str, BlendConfig | None]:
        """How each model's logits joined the fused scores; None: they stood alone."""
        return {query.model: query.blend for query in self.queries}

    @property
    def queries_by_model(self) -> dict[str, int]:
        """How many queries each model scored."""
        return dict(Counter(query.model for query in self.queries))

    @property
    def headers(self) -> tuple[CrossEncoderRerankRun, ...]:
        """Run headers in the order of the file."""
        return tuple(query.header for query in self.queries)

    @property
    def records(self) -> Iterator[dict[str, Any]]:
        """Lines of the rerank file: no clock and no run id in them."""
        return (query.record for query in self.queries)

    def latency_ms(self, percentile: float) -> float | None:
        """Return a percentile of the time per query, None where none was reranked."""
        if not self.queries:
            return None
        times = [query.header.latency_ms for query in self.queries]
        return float(np.percentile(times, percentile))


class RerankPipeline:
    """Reranks fused candidates.

    On a CPU queries go one by one. On a GPU some share their batches, where pairs of
    like length stand together, and each has a part of the time by the positions
    computed for its pairs.

    `redact_key` set: records and headers hold HMAC-SHA256 of the query under that key
    instead of its text. `timeout_seconds` bounds the stage: the queries that are not
    done by then keep the order of fusion, and the result, an event and the header of
    the stage say so.
    `fallback` is the smaller model, for a device without room for the first.
    """

    def __init__(
        self,
        executor: CrossEncoderBatchExecutor,
        config: RerankingConfig,
        emit: Emit,
        run_id: str,
        redact_key: bytes | None = None,
        *,
        timeout_seconds: float | None = None,
        fallback: Fallback = _NO_FALLBACK,
    ) -> None:
        self._fitting = FittingScorer(executor, config, emit, fallback)
        self._config = config
        self._emit = emit
        self._run_id = run_id
        self._redact_key = redact_key
        self._timeout_seconds = timeout_seconds

    def run(
        self, rankings: Sequence[QueryRankings], store: ChunkRows, collection: str
    ) -> RerankResult:
        """Return the reranked queries, in the order given.

        Raises:
            ModelError: the model failed.
            DeviceOutOfMemory: one pair does not fit and nothing smaller is left.
        """
        begun = time.perf_counter()
        self._emit(
            StageStarted(
                stage="rerank",
                collection=collection,
                model=self._config.name,
                total=len(rankings),
                unit="queries",
            )
        )
        done, candidates = self._all(rankings, store, collection)
        left = len(rankings) - len(done)
        if left:
            self._emit(
                FallbackUsed(stage="rerank", collection=collection, reason=TIMEOUT)
            )
        use = self._fitting.executor.use
        reason = "; ".join(self._fitting.steps + [TIMEOUT] * bool(left)) or None
        self._emit(
            StageFinished(
                stage="rerank",
                collection=collection,
                model=self._config.name,
                items=len(done),
                seconds=time.perf_counter() - begun,
                device=use.device,
                gpu_peak_bytes=use.gpu_peak_bytes,
                candidates=candidates,
                fallback_reason=reason,
            )
        )
        return RerankResult(
            config=self._config,
            queries=tuple(done),
            candidates=candidates,
            device=use.device,
            not_reranked=left,
            fallback_reason=reason,
            oom_retries=self._fitting.oom_retries,
            calibration=use.calibration,
        )

    def _all(
        self, rankings: Sequence[QueryRankings], store: ChunkRows, collection: str
    ) -> tuple[list[RerankedQuery], int]:
        deadline = None
        if self._timeout_seconds is not None:
            deadline = self._fitting.executor.clock() + self._timeout_seconds
        done: list[RerankedQuery] = []
        with suppress(TimeIsUp):
            while len(done) < len(rankings):
                block = rankings[len(done) : len(done) + self._queries_together()]
                scored = self._scored(block, store, collection, deadline)
                for found, fitted, seconds in scored:
                    done.append(self._outcome(found, fitted, store, seconds))
                    self._tell(fitted, collection, seconds)
        return done, sum(query.candidates for query in done)

    def _scored(
        self,
        block: Sequence[QueryRankings],
        store: ChunkRows,
        collection: str,
        deadline: float | None,
    ) -> Iterator[tuple[QueryRankings, Fitted, float]]:
        """Yield each query with its scores and the seconds that they took.

        Raises:
            TimeIsUp: the deadline passed.
        """
        begun = time.perf_counter()
        together = self._together(block, store, collection)
        seconds = time.perf_counter() - begun
        if together is not None:
            positions = [one.scored.padded_tokens for one in together]
            whole = sum(positions) or 1
            for found, fitted, part in zip(block, together, positions, strict=True):
                yield found, fitted, seconds * part / whole
            return
        for found in block:
            begun = time.perf_counter()
            fitted = self._alone(found, store, collection, deadline)
            yield found, fitted, time.perf_counter() - begun + seconds / len(block)

    def _queries_together(self) -> int:
        """Return how many queries share batches: one where pairs go one by one.

        One too where time is bounded, for a query whose batches were not all begun is
        not reranked.
        """
        executor = self._fitting.executor
        if executor.scorer.device == "cpu" or self._timeout_seconds is not None:
            return 1
        return max(1, _PAIRS_TOGETHER // self._fitting.config.candidates)

    def _together(
        self, block: Sequence[QueryRankings], store: ChunkRows, collection: str
    ) -> list[Fitted] | None:
        if len(block) == 1:
            return None
        asked = [_asked(store, found) for found in block]
        return self._fitting.score_together(asked, collection)

    def _alone(
        self,
        found: QueryRankings,
        store: ChunkRows,
        collection: str,
        deadline: float | None,
    ) -> Fitted:
        return self._fitting.score(
            _asked(store, found),
            lambda row: store.chunk(row).chunk_id,
            collection,
            deadline,
        )

    def _tell(self, fitted: Fitted, collection: str, seconds: float) -> None:
        self._emit(
            BatchFinished(
                stage="rerank",
                collection=collection,
                model=self._config.name,
                items=1,
                seconds=seconds,
                tokens=fitted.scored.tokens,
                padded_tokens=fitted.scored.padded_tokens,
                device=self._fitting.executor.scorer.device,
                batch_size=fitted.scored.batch_size,
                candidates=len(fitted.candidates),
            )
        )

    def _outcome(
        self, found: QueryRankings, fitted: Fitted, store: ChunkRows, seconds: float
    ) -> RerankedQuery:
        config, scored, candidates = fitted.config, fitted.scored, fitted.candidates
        ranking = blend(candidates, scored.scores, config.blend, config.top_k)
        cross = RankedList(candidates.rows, scored.scores.astype(np.float64))
        ids = [store.chunk(int(row)).chunk_id for row in ranking.rows]
        scores = ranking.scores.tolist()
        shown = self._shown(found.query.text)
        peak = self._fitting.executor.use.gpu_peak_bytes
        header = CrossEncoderRerankRun(
            run_id=self._run_id,
            latency_ms=seconds * 1000,
            query=shown[:QUERY_PREVIEW_CHARACTERS],
            candidate_ids=ids,
            scores=scores,
            batch_size=scored.batch_size,
            gpu_peak_gb=None if peak is None else peak / 2**30,
        )
        record = {
            "query_id": found.query.query_id,
            "query": shown,
            "candidate_ids": ids,
            "scores": scores,
            "cross_scores": _scores_of(cross, ranking),
            "fused_scores": _scores_of(found.fused, ranking),
            "dense_scores": _scores_of(found.dense, ranking),
            "sparse_scores": _scores_of(found.sparse, ranking),
        }
        return RerankedQuery(
            query=found.query,
            ranking=ranking,
            header=header,
            model=config.name,
            blend=config.blend,
            candidates=len(candidates),
            record=record,
        )

    def _shown(self, query: str) -> str:
        if self._redact_key is None:
            return query
        return hmac.new(self._redact_key, query.encode(), hashlib.sha256).hexdigest()


def _asked(store: ChunkRows, found: QueryRankings) -> Asked:
    return Asked(found.query.text, found.fused, partial(_text, store, found))


def _text(store: ChunkRows, found: QueryRankings, row: int) -> str:
    """Return a row's text; that of a probe's answer stands without the question."""
    if found.masked is not None and found.masked.row == row:
        return found.masked.text
    return store.chunk(row).text


def _scores_of(
    leg: RankedList | None, ranking: RankedList
) -> list[float | None] | None:
    """Return the scores of the ranking's rows in another list, None where absent."""
    if leg is None:
        return None
    known = dict(zip(leg.rows.tolist(), leg.scores.tolist(), strict=True))
    return [known.get(row) for row in ranking.rows.tolist()]
