"""What a search gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..records import Metadata, RankedList

Stage = Literal["dense", "sparse", "fused", "reranked"]
STAGES: tuple[Stage, ...] = get_args(Stage)
FUSED: Stage = "fused"
RERANKED: Stage = "reranked"


def dense_name(key: str) -> str:
    """Return what one dense model's ranking is called: `dense:all-miniLM-l6`."""
    return f"dense:{key}"


def sparse_name(key: str) -> str:
    """Return what one sparse model's ranking is called: `sparse:qdrant-bm25`."""
    return f"sparse:{key}"


@dataclass(frozen=True, slots=True)
class StageScore:
    """Where a stage put a chunk: `rank` from 1, and its score there."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found.

    `stages` holds each ranking that was made and lists the chunk; one that does not
    list it is absent. `text` is None in a bundle without points file, `row` in a
    collection of Qdrant's.
    """

    row: int | None
    chunk_id: str
    rank: int
    score: float
    text: str | None
    metadata: Metadata
    stages: Mapping[Stage, StageScore]

    def as_json(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {
            "rank": self.rank,
            "score": self.score,
            "chunk_id": self.chunk_id,
            "row": self.row,
            "text": self.text,
            "metadata": self.metadata,
            "stages": {
                stage: {"rank": place.rank, "score": place.score}
                for stage, place in self.stages.items()
            },
        }


@dataclass(frozen=True, slots=True)
class SearchResults:
    """Rankings of one query by stage; `missing` says why a stage has none.

    `seconds` is what each ranking took, its query's vector included.
    """

    query: str
    rankings: Mapping[Stage, RankedList]
    missing: Mapping[Stage, str] = field(default_factory=dict)
    seconds: Mapping[Stage, float] = field(default_factory=dict)

    def places(self, row: int) -> dict[Stage, StageScore]:
        """Return where each ranking lists a row."""
        found: dict[Stage, StageScore] = {}
        for stage, ranking in self.rankings.items():
            for place in (ranking.rows == row).nonzero()[0].tolist():
                found[stage] = StageScore(place + 1, float(ranking.scores[place]))
        return found
