"""A request asked again until it is answered, or until patience ends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import DeliveryError

_Answer = TypeVar("_Answer")


class Unsteady(DeliveryError):
    """A failure that may pass: no answer, an overloaded or a restarting server.

    `wait` is how many seconds the server asked for; None when it did not. `nobody`
    says that no connection came about at all.
    """

    def __init__(
        self,
        message: str,
        *,
        cure: str | None = None,
        wait: float | None = None,
        nobody: bool = False,
    ) -> None:
        super().__init__(message, cure=cure)
        self.wait = wait
        self.nobody = nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How long one request is asked again: in all `patience` seconds.

    Pauses double from `first` to `longest` seconds, each shortened by up to a half at
    random, so that clients that failed together do not return together. A pause that
    the server asked for is kept. `tell` is given a line before each pause.
    """

    patience: float = 300.0
    first: float = 0.5
    longest: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = lambda _line: None

    def run(self, ask: Callable[[], _Answer]) -> _Answer:
        """Return the answer of `ask`.

        Raises:
            DeliveryError: a failure that does not pass, or the last one that might
                have when patience ended.
        """
        started, pause = self.clock(), self.first
        while True:
            try:
                return ask()
            except Unsteady as error:
                wait = error.wait
                if wait is None:
                    wait = pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
                if self.clock() - started + wait > self.patience:
                    raise
                self.tell(f"{error.message} Trying again in {wait:.1f} s.")
                self.sleep(wait)
                pause = min(2 * pause, self.longest)
