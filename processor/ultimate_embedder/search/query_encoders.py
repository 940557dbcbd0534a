"""What search asks of models; a test brings its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..records import Float32Array, SparseVector


class QueryEncoders(Protocol):
    """Queries to vectors, and candidates to scores, for one bundle's models.

    A `key` names one of the bundle's models; without it, that of the fusion is meant.
    Each method may be called by several threads. A model that cannot be had raises
    ModelNotAvailable when it is asked for.
    """

    def dense(self, text: str, key: str | None = None) -> Float32Array:
        """Return the vector for a dense model, else the primary one: float32 [dim]."""

    def sparse(self, text: str, key: str | None = None) -> SparseVector:
        """Return the vector for a sparse model, else the one in the fusion."""

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        """Return the relevance of each document: float32 [documents]."""

    def close(self) -> None:
        """Let go of the models."""
