"""How much goes into one call of a model: less after a failure, carefully more again.

A size is what a caller counts in: token positions of a forward pass, or pairs.
"""

from __future__ import annotations

GOOD_CALLS_TO_GROW = 16
_PART_TO_GROW = 8


class Budget:
    """The most that a call may take now; None until a limit is known.

    A call that fails lowers it to half of what that call took, or to what it was before
    it grew, where that is more. After `GOOD_CALLS_TO_GROW` calls in a row that went
    well and took more than half of it, it grows by an eighth: never above what it was
    given at first, and never again to a size that failed twice. What failed at one size
    counts for all above it, and sizes within an eighth count as one.
    """

    def __init__(self, most: int | None = None) -> None:
        """Begin with the whole of `most`, or without a limit."""
        if most is not None and most < 1:
            raise ValueError(f"a budget is at least 1, not {most}")
        self.now = most
        self._most = most
        self._good = 0
        self._before_growth = 0
        self._smallest_failed: list[int] = []  # at most two, ascending

    def allows(self, size: int) -> bool:
        """Say whether a call may take as much."""
        return self.now is None or size <= self.now

    def failed(self, size: int) -> None:
        """Note that a call of this size ran out of memory."""
        self._smallest_failed = sorted([*self._smallest_failed, size])[:2]
        self._good = 0
        held = self._before_growth if self._before_growth < size else 0
        self._before_growth = 0
        self.now = max(1, size // 2, held)

    def succeeded(self, size: int) -> None:
        """Note that a call of this size went well."""
        if self.now is None or 2 * size <= self.now:
            return
        self._good += 1
        if self._good == GOOD_CALLS_TO_GROW:
            self._good = 0
            grown = self.now + max(1, self.now // _PART_TO_GROW)
            self._before_growth = self.now
            self.now = max(self.now, min(grown, self._ceiling(grown)))

    def _ceiling(self, grown: int) -> int:
        ceiling = grown if self._most is None else self._most
        if len(self._smallest_failed) == 2:
            twice = self._smallest_failed[1]
            ceiling = min(ceiling, twice - max(1, twice // _PART_TO_GROW))
        return ceiling
