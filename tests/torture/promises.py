"""What a torture test says that it shows, and how often it tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Promise:
    """What a test shows, and how often it was tried."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record
        self.done = 0

    def holds(self, sentence: str) -> None:
        """Say what is promised, in words of a user."""
        self._record("promise", sentence)

    def rounds(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; each one that was worked through is a round."""
        for item in items:
            yield item
            self.done += 1
