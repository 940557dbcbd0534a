"""What a collection's vectors are, and how two descriptions differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import UsageError

COSINE: Final = "Cosine"
FLOAT32: Final = "float32"

Point = Mapping[str, Any]
"""A row of `<c>_qdrant.jsonl`: `id`, `vector` by name, `payload`."""

Request = Mapping[str, Any]
"""The JSON body of a Qdrant query request."""


@dataclass(frozen=True, slots=True)
class DenseVector:
    """Width and distance of a named dense vector, and how its numbers are kept.

    Ours have unit length, so that cosine and dot product rank alike; cosine is what
    the vectors mean. `rows` is true for a field that holds several vectors a point.
    """

    size: int
    distance: str = COSINE
    datatype: str = FLOAT32
    rows: bool = False

    def __str__(self) -> str:
        kept = "" if self.datatype == FLOAT32 else f", {self.datatype}"
        several = ", several a point" if self.rows else ""
        return f"{self.size} dimensions, {self.distance}{kept}{several}"


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

    def renamed(self, names: Mapping[str, str]) -> CollectionLayout:
        """Return the layout with other names for some vectors.

        Raises:
            UsageError: two vectors would have one name.
        """
        new = Counter(names.get(key, key) for key in (*self.dense, *self.sparse))
        for name, count in new.items():
            if count > 1:
                raise UsageError(
                    f"{count} vectors of the bundle would be called '{name}'.",
                    cure="Name them apart with --vector-name KEY=NAME.",
                )
        return CollectionLayout(
            {names.get(key, key): vector for key, vector in self.dense.items()},
            {names.get(key, key): kind for key, kind in self.sparse.items()},
        )


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
