"""Watches a training: tells of progress, keeps the best weights, says when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .low_rank import Snapshot
from .settings import TrainingConfig

Ending = Literal["steps", "no more gain", "time"]

_REPORT_EVERY = 20  # steps


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean losses of a step: of lists, and what the fused scores alone would lose."""

    listed: float
    fused: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Means since the last report. `fused` is what the fused scores alone would lose.

    `held_out` is the loss of lists on the groups held out, where these were looked at.
    """

    step: int
    steps: int
    seconds: float
    loss: float
    fused: float
    held_out: float | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How training went; the model holds the weights of `kept_step`.

    `weight` is what logits deserve in a blend: 1 / tau. `losses` are those on the
    groups held out, by step, the first before any training.
    """

    steps: int
    best_step: int
    kept_step: int
    ending: Ending
    seconds: float
    weight: float
    losses: tuple[tuple[int, float], ...]


class Watch:
    """Knows when to stop, keeps the best, and tells of progress."""

    def __init__(
        self,
        config: TrainingConfig,
        clock: Callable[[], float],
        report: Report | None,
        seconds: float | None,
    ) -> None:
        self.best: Snapshot | None = None
        self._config, self._clock, self._report = config, clock, report
        self._limit, self._begun = seconds, clock()
        self._losses: list[tuple[int, float]] = []
        self._since: list[Losses] = []

    def stepped(self, step: int, losses: Losses) -> None:
        self._since.append(losses)
        if step % _REPORT_EVERY == 0:
            self._tell(step)

    def looked(
        self, step: int, loss: float | None, snapshot: Callable[[], Snapshot]
    ) -> None:
        """Take the loss on the groups held out; the best so far is kept."""
        if loss is None:
            return
        if not self._losses or loss < min(found for _, found in self._losses):
            self.best = snapshot()
        self._losses.append((step, loss))
        self._tell(step, loss)

    def unseen(self, step: int) -> bool:
        """Say whether groups are held out and were not looked at after this step."""
        return bool(self._losses) and self._losses[-1][0] != step

    def ending(self, step: int) -> Ending | None:
        """Return why training ends after this step, None: it goes on."""
        if self._losses:
            best = min(range(len(self._losses)), key=lambda at: self._losses[at][1])
            if len(self._losses) - 1 - best >= self._config.patience:
                return "no more gain"
        if self._limit is not None and self._seconds() >= self._limit:
            return "steps" if step == self._config.steps else "time"
        return None

    def trained(self, step: int, ending: Ending, weight: float) -> Trained:
        best = min(self._losses, key=lambda found: found[1], default=(step, 0.0))
        return Trained(
            steps=step,
            best_step=best[0],
            kept_step=best[0] if self._config.keeps == "best" else step,
            ending=ending,
            seconds=self._seconds(),
            weight=weight,
            losses=tuple(self._losses),
        )

    def _seconds(self) -> float:
        return self._clock() - self._begun

    def _tell(self, step: int, held_out: float | None = None) -> None:
        if self._report is None:
            return
        count = max(1, len(self._since))
        self._report(
            Progress(
                step=step,
                steps=self._config.steps,
                seconds=self._seconds(),
                loss=sum(one.listed for one in self._since) / count,
                fused=sum(one.fused for one in self._since) / count,
                held_out=held_out,
            )
        )
        self._since.clear()
