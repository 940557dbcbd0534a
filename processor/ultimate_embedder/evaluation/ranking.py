"""Every judged query ranked by every stage of a bundle, as documents."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import ModelNotAvailable, UsageError
from ..records import Query, RankedList
from ..retrieval.ranking import cut_to
from ..search import Bundle, StageRankings
from ..search.results import FUSED, RERANKED
from ..telemetry.events import BatchFinished, Emit, Stage, StageFinished, StageStarted
from .documents import DocumentRanking, RowDocuments
from .measures import DEPTH


@dataclass(frozen=True, slots=True)
class StageRuns:
    """Rankings by stage, then query id; `missing` says why a stage has none."""

    rankings: dict[str, dict[str, DocumentRanking]]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueryRanker:
    """Ranks queries to `DEPTH` documents, as a search of `rerank_depth` candidates."""

    bundle: Bundle
    documents: RowDocuments
    rerank_depth: int
    emit: Emit

    def run(self, queries: Sequence[Query], reranked: frozenset[str]) -> StageRuns:
        """Return every stage's rankings; `reranked` holds ids of queries to rerank.

        Raises:
            ModelNotAvailable: no ranking can be made.
        """
        runs = StageRuns({})
        self._started("fusion", len(queries))
        began = time.perf_counter()
        fused: dict[str, RankedList] = {}
        for query in queries:
            before = time.perf_counter()
            found = self._rank(query)
            runs.missing.update(found.missing)
            for stage, ranking in found.lists.items():
                self._keep(runs, stage, query, ranking)
            if FUSED in found.lists and query.query_id in reranked:
                fused[query.query_id] = found.lists[FUSED]
            self._step("fusion", before)
        self._finished("fusion", len(queries), began)
        self._rerank([q for q in queries if q.query_id in fused], fused, runs)
        return runs

    def _rank(self, query: Query) -> StageRankings:
        """Rank as deep as it takes for `DEPTH` documents, as far as there are any."""
        rows, documents = len(self.bundle), max(1, len(self.documents))
        depth = DEPTH * -(-rows // documents)
        while True:
            found = self.bundle.rankings(query.text, depth, self.rerank_depth)
            short = any(
                len(ranking) >= depth and self.documents.count(ranking) < DEPTH
                for ranking in found.lists.values()
            )
            if not short or depth >= rows:
                return found
            depth *= 2

    def _keep(
        self, runs: StageRuns, stage: str, query: Query, ranking: RankedList
    ) -> None:
        kept = runs.rankings.setdefault(stage, {})
        kept[query.query_id] = self.documents.ranked(ranking, DEPTH)

    def _rerank(
        self, queries: Sequence[Query], fused: dict[str, RankedList], runs: StageRuns
    ) -> None:
        """Add the reranked lists; what lies beyond the candidates follows as fused."""
        if not queries:
            return
        self._started("rerank", len(queries))
        began = time.perf_counter()
        found: dict[str, DocumentRanking] = {}
        for query in queries:
            before = time.perf_counter()
            head = cut_to(fused[query.query_id], self.rerank_depth)
            try:
                order = self.bundle.rerank(query.text, head)
            except (ModelNotAvailable, UsageError) as error:
                runs.missing[RERANKED] = str(error)
                return
            best = self.documents.ranked(order, DEPTH)
            behind = runs.rankings[FUSED][query.query_id]
            found[query.query_id] = best.followed_by(behind, DEPTH)
            self._step("rerank", before)
        runs.rankings[RERANKED] = found
        self._finished("rerank", len(queries), began)

    def _started(self, stage: Stage, queries: int) -> None:
        self.emit(
            StageStarted(
                stage=stage, collection=self._name, total=queries, unit="queries"
            )
        )

    def _step(self, stage: Stage, began: float) -> None:
        seconds = time.perf_counter() - began
        self.emit(
            BatchFinished(stage=stage, collection=self._name, items=1, seconds=seconds)
        )

    def _finished(self, stage: Stage, queries: int, began: float) -> None:
        seconds = time.perf_counter() - began
        self.emit(
            StageFinished(
                stage=stage, collection=self._name, items=queries, seconds=seconds
            )
        )

    @property
    def _name(self) -> str:
        return self.bundle.manifest.collection


def draw_queries(queries: Sequence[Query], count: int) -> frozenset[str]:
    """Return the ids of `count` queries, all of them below 0.

    Drawn by the hash of the id: fewer are a part of more, whatever the order.
    """
    ids = sorted(
        (query.query_id for query in queries),
        key=lambda name: hashlib.sha256(name.encode()).digest(),
    )
    return frozenset(ids if count < 0 else ids[:count])
