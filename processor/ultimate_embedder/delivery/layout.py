"""What a collection's vectors are, and how two descriptions differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

COSINE: Final = "Cosine"

Point = Mapping[str, Any]
"""A row of `<c>_qdrant.jsonl`: `id`, `vector` by name, `payload`."""

Request = Mapping[str, Any]
"""The JSON body of a Qdrant query request."""


@dataclass(frozen=True, slots=True)
class DenseVector:
    """Width and distance of a named dense vector.

    Ours have unit length, so that cosine and dot product rank alike; cosine is what
    the vectors mean.
    """

    size: int
    distance: str = COSINE

    def __str__(self) -> str:
        return f"{self.size} dimensions, {self.distance}"


@dataclass(frozen=True, slots=True)
class SparseVectorKind:
    """Whether the engine weights query terms by their rarity (`modifier: idf`).

    BM25 and attention vectors leave that factor to the engine; learned expansions such
    as SPLADE bring their own weights.
    """

    idf: bool

    def __str__(self) -> str:
        return "sparse, modifier idf" if self.idf else "sparse, no modifier"


@dataclass(frozen=True, slots=True)
class FoundPoint:
    """One answer of a query; `payload` only where the request asked for it."""

    id: str
    score: float
    payload: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CollectionLayout:
    """The named vectors of a collection."""

    dense: Mapping[str, DenseVector]
    sparse: Mapping[str, SparseVectorKind] = field(default_factory=dict)

    def vectors(self) -> dict[str, str]:
        """Return name -> description of every vector, dense ones first."""
        named = {**self.dense, **self.sparse}
        return {name: str(vector) for name, vector in named.items()}


def differences(wanted: CollectionLayout, found: CollectionLayout) -> Iterator[str]:
    """Yield one clause for each vector that keeps a bundle out of a collection.

    A vector the bundle lacks counts too: replacing a point would remove it.
    """
    ours, theirs = wanted.vectors(), found.vectors()
    for name, vector in ours.items():
        if name not in theirs:
            yield f"it has no vector '{name}' ({vector})"
        elif theirs[name] != vector:
            yield f"its vector '{name}' has {theirs[name]} instead of {vector}"
    for name in theirs:
        if name not in ours:
            yield f"its vector '{name}' ({theirs[name]}) is not in the bundle"


class Store(Protocol):
    """One collection of one vector store. Every failure is a DeliveryError."""

    def describe(self) -> str:
        """Return where the collection is, as a person would say it."""

    def layout(self) -> CollectionLayout | None:
        """Return the vectors of the collection, or None when there is none yet."""

    def create(self, layout: CollectionLayout) -> None:
        """Make the collection, empty."""

    def drop(self) -> None:
        """Remove the collection and all its points."""

    def upsert(self, points: list[Point]) -> None:
        """Add or replace points; they are stored when this returns."""

    def count(self) -> int:
        """Return how many points the collection holds, exactly."""

    def fetch(self, ids: list[str]) -> dict[str, Point]:
        """Return the points with these ids that exist, in the form of a row."""

    def query(self, requests: Sequence[Request]) -> list[list[FoundPoint]]:
        """Return for each request the points found, best first."""

    def finish(self) -> None:
        """Make what was stored durable and indexed as far as the store leaves that to
        its caller."""

    def close(self) -> None:
        """Release the store."""
