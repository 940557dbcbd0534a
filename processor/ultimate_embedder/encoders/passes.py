"""Texts cut into forward passes within a budget; smaller ones where memory fails.

A pass that fails is done again in halves, under a lowered budget (`Budget` has the
rule). The texts keep their places. Where one alone does not fit, there is nothing to
split, and the error says how much memory was in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import DeviceOutOfMemory
from ..memory_plan import Calibration, Probed
from ..memory_room import PlannedRoom
from .budget import Budget

_GIB = 2**30
_MORE_ROOM = "Free the device or raise --gpu-memory-cap."
_FEWER_WORKERS = "Use fewer workers."

Call = Callable[[int, int], None]
"""Computes the texts from a first to before a last, by their places."""
Tell = Callable[[int], None]
"""Hears of a pass that failed: the positions that a pass may now have."""


def _unheard(_: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class PassCost:
    """What passes took: rows of each that went well, positions computed, failures."""

    rows: tuple[int, ...]
    positions: int
    oom_retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """Where a model runs, and what is known of the memory there.

    `release` is called after a failure, to give back what the device's allocator
    keeps. `used_bytes` tells, for the message at the end, how much memory was in use,
    and `cap_bytes` how much may be; None where that is not known. `room` is what was
    planned, None on a CPU, and `calibration` the pass that it was corrected by.
    """

    model: str
    device: str
    release: Callable[[], None] = lambda: None
    used_bytes: Callable[[], int | None] = lambda: None
    cap_bytes: int | None = None
    room: PlannedRoom | None = None
    calibration: Calibration | None = None

    @property
    def gpu_peak_bytes(self) -> int | None:
        """The most that was held so far, None on a CPU."""
        return None if self.device == "cpu" else self.used_bytes()

    def calibrated(self, model: object, longest: int) -> DeviceUse:
        """Return the same with its room corrected by one pass, if `model` allows it."""
        probe = model.pass_probe() if isinstance(model, Probed) else None
        if self.room is None or probe is None:
            return self
        room, found = self.room.calibrated(probe, longest)
        return replace(self, room=room, calibration=found)

    def told(self) -> str:
        """Return the bytes in use and the cap, to be put behind a statement."""
        used = self.used_bytes()
        said = "" if used is None else f", {used / _GIB:.2f} GiB ({used} bytes) used"
        if self.cap_bytes is not None:
            said += f", the cap is {self.cap_bytes / _GIB:.2f} GiB"
        return said

    def ran_out(self, tokens: int, row: int) -> DeviceOutOfMemory:
        """Return the error of a text that did not fit alone; `row` is its place."""
        return DeviceOutOfMemory(
            f"Model {self.model} ran out of memory on {self.device} with one text of "
            f"{tokens} tokens alone{self.told()}.",
            cure=f"{_FEWER_WORKERS if self.device == 'cpu' else _MORE_ROOM} Or leave "
            "the model out, or chunk with a smaller --max-tokens. The same command "
            "goes on from here.",
            row=row,
        )


class Passes:
    """Calls a model for texts in their order, until each was in a pass that went well.

    `padded` tells whether the texts of a pass are padded to its longest, as on a GPU.
    """

    def __init__(
        self,
        use: DeviceUse,
        *,
        budget_tokens: int | None = None,
        most_rows: int | None = None,
        padded: bool = True,
    ) -> None:
        """Begin with the whole budget; without one nothing is cut before a failure."""
        self.budget = Budget(budget_tokens)
        self._use = use
        self._most_rows = most_rows
        self._padded = padded
        self._forget()

    def run(
        self,
        lengths: Sequence[int],
        tokens: Sequence[int],
        call: Call,
        *,
        most: int | None = None,
        tell: Tell = _unheard,
    ) -> None:
        """Compute texts of these padded lengths and tokens; no pass is over `most`.

        Raises:
            DeviceOutOfMemory: one text alone does not fit; `row` is its place.
        """
        start = 0
        while start < len(lengths):
            stop = self._stop(lengths, start, most)
            size = _size(lengths[start:stop])
            if self._fits(call, start, stop, tokens[start]):
                self.budget.succeeded(size)
                self._count(lengths[start:stop])
                start = stop
                continue
            # Not where the failure is handled: it holds on to what did not fit.
            self._retries += 1
            self._use.release()
            self.budget.failed(size)
            tell(self.budget.now or 1)

    def take_cost(self) -> PassCost:
        """Return what passes took since this was last asked."""
        cost = PassCost(tuple(self._rows), self._positions, self._retries)
        self._forget()
        return cost

    def _forget(self) -> None:
        self._rows: list[int] = []
        self._positions = 0
        self._retries = 0

    def _stop(self, lengths: Sequence[int], start: int, most: int | None) -> int:
        """Return where a pass from `start` ends: one text at least."""
        stop = start + 1
        last = len(lengths)
        if self._most_rows is not None:
            last = min(last, start + self._most_rows)
        while stop < last:
            size = _size(lengths[start : stop + 1])
            if not self.budget.allows(size) or (most is not None and size > most):
                break
            stop += 1
        return stop

    def _fits(self, call: Call, start: int, stop: int, tokens: int) -> bool:
        try:
            call(start, stop)
        except DeviceOutOfMemory as error:
            if stop - start == 1:
                raise self._use.ran_out(tokens, start) from error
            return False
        return True

    def _count(self, lengths: Sequence[int]) -> None:
        self._rows.append(len(lengths))
        self._positions += _size(lengths) if self._padded else sum(lengths)


def _size(lengths: Sequence[int]) -> int:
    return len(lengths) * max(lengths)
