"""What a caller of `adapt` decides."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from .settings import TrainingConfig

PROBES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptChoices:
    """How much is drawn and trained: without steps and minutes by the probes there are.

    `settings` are those of training; steps, scale and the like are set from the rest.

    Raises:
        UsageError: numbers that make no sense.
    """

    probes: int = PROBES
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    keep_anyway: bool = False
    offline: bool = False
    settings: TrainingConfig | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps is not None and self.minutes is not None:
            raise UsageError("Steps and minutes exclude each other.")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"Minutes must be above zero, not {self.minutes:g}.")
