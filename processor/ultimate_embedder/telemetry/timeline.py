"""How fast each pass went over time: what finished, in equal slices of time."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import events as ev

SLICES = 60
"""Most slices of a pass: when they are full, neighbours are joined."""
FIRST_WIDTH = 0.25
"""Seconds a slice is wide at first."""


@dataclass(slots=True)
class Slices:
    """`items` and `tokens` finished in each `width` seconds from `started` on.

    `started` is in seconds after the first event.
    """

    started: float
    width: float = FIRST_WIDTH
    items: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, at: float, items: int, tokens: int) -> None:
        """Count what finished at a time, in seconds after the first event."""
        passed = max(0.0, at - self.started)
        while passed >= self.width * SLICES:
            self._join_neighbours()
        place = int(passed / self.width)
        missing = place + 1 - len(self.items)
        self.items += [0] * missing
        self.tokens += [0] * missing
        self.items[place] += items
        self.tokens[place] += tokens

    def _join_neighbours(self) -> None:
        self.width *= 2
        for counts in (self.items, self.tokens):
            counts[:] = [sum(counts[at : at + 2]) for at in range(0, len(counts), 2)]


class Timeline:
    """Hears one collection's events; `passes` are by stage and model, in their order.

    It holds at most `SLICES` pairs of figures a pass, however long the run is. What an
    earlier run had done is not in it.
    """

    def __init__(self, collection: str) -> None:
        self._collection = collection
        self._origin: float | None = None
        self.passes: dict[tuple[str, str | None], Slices] = {}

    def __call__(self, event: ev.Event) -> None:
        """Count what `event` says was finished."""
        if self._origin is None:
            self._origin = event.at
        at = event.at - self._origin
        if not isinstance(event, ev.StageStarted | ev.BatchFinished):
            return
        if event.collection != self._collection:
            return
        if isinstance(event, ev.StageStarted):
            self._of(event.stage, event.model, at)
        else:
            found = self._of(event.stage, event.model, at - event.seconds)
            found.add(at, event.items, event.tokens)

    def _of(self, stage: str, model: str | None, at: float) -> Slices:
        return self.passes.setdefault((stage, model), Slices(max(0.0, at)))
