"""Which of many batches are shown: all at first, then ever fewer."""

from __future__ import annotations

from dataclasses import dataclass

A_STEP = 32
"""So many are taken before every second, fourth, eighth ... of the next is left."""


@dataclass(slots=True)
class Thinning:
    """Takes the first 32 of what comes, every second for the next 32, and so on.

    Of n it takes about 32 · log2(1 + n / 32): 287 of 16,000 batches, 606 of 16
    million. The choice depends on the number of a batch alone, so that two runs over
    the same plan show the same ones.
    """

    seen: int = 0
    _every: int = 1
    _taken: int = 0

    def take(self) -> int:
        """Return how many the next one stands for; 0: it is left out."""
        self.seen += 1
        every = self._every
        if self.seen % every:
            return 0
        self._taken += 1
        if self._taken == A_STEP:
            self._taken, self._every = 0, every * 2
        return every
