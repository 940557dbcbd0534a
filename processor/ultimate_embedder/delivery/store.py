"""What is asked of a place that keeps points: a server, a folder, an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from ..errors import DeliveryError
from .layout import CollectionLayout, FoundPoint, Point, Request
from .presets import Tuning

OWNER_FIELD: Final = "metadata.collection"
KEYWORD_FIELDS: Final = ("metadata.source_subdir", "chunk_id")
TEXT_FIELD: Final = "text"
"""Payload fields that get an index: two for conditions, the last for words."""


class TooLarge(DeliveryError):
    """A request was larger than the store takes; a part of it may fit."""


class Store(Protocol):
    """One collection of one vector store. Every failure is a DeliveryError."""

    def describe(self) -> str:
        """Return where the collection is, as a person would say it."""

    def identity(self) -> str:
        """Return the place alone, however it is reached."""

    def layout(self) -> CollectionLayout | None:
        """Return the vectors of the collection, or None when there is none yet."""

    def create(self, layout: CollectionLayout, tuning: Tuning) -> None:
        """Make the collection, empty."""

    def index_payload(self) -> None:
        """Make the payload indexes that are missing, where the store has such."""

    def drop(self) -> None:
        """Remove the collection and all its points."""

    def upsert(self, points: list[Point]) -> None:
        """Add or replace points; they are stored when this returns.

        Raises:
            TooLarge: fewer points may be taken.
        """

    def delete(self, ids: list[str]) -> None:
        """Remove points; they are gone when this returns."""

    def count(self) -> int:
        """Return how many points the collection holds, exactly."""

    def ids(self) -> Iterator[list[str]]:
        """Yield the ids of all points, in pages."""

    def fetch(self, ids: list[str]) -> dict[str, Point]:
        """Return the points with these ids that exist, in the form of a row."""

    def payloads(self, ids: list[str]) -> dict[str, Any]:
        """Return the payloads of the points with these ids that exist."""

    def owners(self, ids: list[str]) -> dict[str, str | None]:
        """Return by id which collection's bundle a point says it is from."""

    def query(self, requests: Sequence[Request]) -> list[list[FoundPoint]]:
        """Return for each request the points found, best first."""

    def finish(self) -> None:
        """Make what was stored durable and indexed as far as the store leaves that to
        its caller."""

    def wait_until_indexed(self, seconds: float) -> None:
        """Return when searches use the indexes.

        Raises:
            DeliveryError: they are not ready after so many seconds.
        """

    def alias_of(self, alias: str) -> str | None:
        """Return the collection that an alias stands for; None: there is no such.

        Raises:
            UsageError: the store has no aliases, or a collection has that name.
        """

    def point_alias(self, alias: str) -> None:
        """Let an alias stand for this collection, in one step."""

    def close(self) -> None:
        """Release the store."""
