"""The fusion stage: for each query a ranking by every leg, and one out of them.

A probe's answer is matched without the words that ask (its `masked` vector), so that
a known-item figure is not won by copying; all other rows are matched as stored.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..records import Float32Array, Query, RankedList, SparseVector
from ..retrieval.fusion import FusionConfig, fuse
from ..retrieval.indexes import DenseIndex, SparseIndex, dot
from ..retrieval.ranking import rank_of, replace_score
from ..telemetry.events import BatchFinished, Emit, StageFinished, StageStarted

Kind = Literal["dense", "sparse"]


class Leg(Protocol):
    """One model's way to rank rows for the queries it was made with."""

    @property
    def key(self) -> str:
        """The model key."""

    @property
    def kind(self) -> Kind:
        """Which field of a result this leg fills when it is fused."""

    def rankings(self, queries: Sequence[Query], depth: int) -> list[RankedList]:
        """Return for each query the best `depth` rows."""


@dataclass(frozen=True, slots=True)
class DenseLeg:
    """Shapes: `vectors` and `masked` float32 [queries, dimension]."""

    key: str
    index: DenseIndex
    vectors: Float32Array
    masked: Float32Array | None = None
    kind: Kind = "dense"

    def rankings(self, queries: Sequence[Query], depth: int) -> list[RankedList]:
        """Return for each query the best `depth` rows by inner product."""
        if self.masked is None:
            return self.index.search_batch(self.vectors, depth)
        found = self.index.search_batch(self.vectors, depth + 1)
        scores = [
            float(dot(vector, masked[None])[0])
            for vector, masked in zip(self.vectors, self.masked, strict=True)
        ]
        return _answers_rescored(found, queries, scores, depth)


@dataclass(frozen=True, slots=True)
class SparseLeg:
    """A vector for each query, and for each probe's answer without its question."""

    key: str
    index: SparseIndex
    vectors: Sequence[SparseVector]
    masked: Sequence[SparseVector] | None = None
    kind: Kind = "sparse"

    def rankings(self, queries: Sequence[Query], depth: int) -> list[RankedList]:
        """Return for each query the best `depth` rows that share a term with it."""
        if self.masked is None:
            return self.index.search_batch(self.vectors, depth)
        found = self.index.search_batch(self.vectors, depth + 1)
        scores = [
            self.index.score(vector, masked) or None
            for vector, masked in zip(self.vectors, self.masked, strict=True)
        ]
        return _answers_rescored(found, queries, scores, depth)


def _answers_rescored(
    found: Sequence[RankedList],
    probes: Sequence[Query],
    scores: Sequence[float | None],
    depth: int,
) -> list[RankedList]:
    """Give each probe's answer the score of its masked text, None: not found."""
    return [
        replace_score(ranking, probe.relevant_rows[0], score, depth)
        for ranking, probe, score in zip(found, probes, scores, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A probe's answer: its row, and its text without the words that ask."""

    row: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRankings:
    """One query's rankings: `legs` by model key, and `fused` out of some of them.

    `dense` and `sparse` are the fused legs of those kinds, as far as there are any.
    """

    query: Query
    legs: Mapping[str, RankedList] = field(default_factory=dict)
    fused: RankedList
    dense: RankedList | None = None
    sparse: RankedList | None = None
    masked: MaskedRow | None = None

    def answer_ranks(self) -> dict[str, int | None]:
        """Return the rank of a probe's answer in every ranking, None: not found."""
        row = self.query.relevant_rows[0]
        ranks = {key: rank_of(ranking, row) for key, ranking in self.legs.items()}
        return {**ranks, "fused": rank_of(self.fused, row)}


@dataclass(frozen=True, slots=True)
class FusionResult:
    """What the stage found, and what it took."""

    config: FusionConfig
    fused_legs: tuple[str, ...]
    depth: int
    rankings: tuple[QueryRankings, ...]
    seconds: float

    @property
    def ranked_legs(self) -> tuple[str, ...]:
        """Every leg that was ranked, fused or not."""
        return tuple(self.rankings[0].legs) if self.rankings else ()


class FusionStage:
    """Ranks queries by every leg and fuses the legs named."""

    def __init__(self, config: FusionConfig, collection: str, emit: Emit) -> None:
        self._config = config
        self._collection = collection
        self._emit = emit

    def run(
        self,
        queries: Sequence[Query],
        legs: Iterable[Leg],
        fused_legs: Sequence[str],
        depth: int,
        masked: Sequence[MaskedRow] | None = None,
    ) -> FusionResult:
        """Return rankings `depth` deep for each query; legs keep their order.

        `legs` may make each leg when it is asked for, loading its model meanwhile:
        that time counts as this stage's.
        `masked` stands beside `queries` when these are probes.
        """
        started = time.perf_counter()
        self._emit(
            StageStarted(
                stage="fusion",
                collection=self._collection,
                total=len(queries),
                unit="queries",
            )
        )
        found: dict[str, list[RankedList]] = {}
        fused_by_kind: dict[Kind, str] = {}
        for leg in legs:
            found[leg.key] = leg.rankings(queries, depth)
            if leg.key in fused_legs:
                fused_by_kind.setdefault(leg.kind, leg.key)
        rankings = []
        for place, query in enumerate(queries):
            one = {key: lists[place] for key, lists in found.items()}
            by_kind = {kind: one[key] for kind, key in fused_by_kind.items()}
            rankings.append(
                QueryRankings(
                    query=query,
                    legs=one,
                    fused=fuse([one[key] for key in fused_legs], self._config, depth),
                    dense=by_kind.get("dense"),
                    sparse=by_kind.get("sparse"),
                    masked=masked[place] if masked else None,
                )
            )
        seconds = time.perf_counter() - started
        self._report(rankings, seconds)
        return FusionResult(
            self._config, tuple(fused_legs), depth, tuple(rankings), seconds
        )

    def _report(self, rankings: Sequence[QueryRankings], seconds: float) -> None:
        self._emit(
            BatchFinished(
                stage="fusion",
                collection=self._collection,
                items=len(rankings),
                seconds=seconds,
            )
        )
        self._emit(
            StageFinished(
                stage="fusion",
                collection=self._collection,
                items=len(rankings),
                seconds=seconds,
                candidates=sum(len(ranking.fused) for ranking in rankings),
            )
        )
