"""How many searches run at once, and how many may wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio import to_thread

_T = TypeVar("_T")


class Busy(Exception):
    """As many searches wait as may, or one waited for too long."""


class Left(Exception):
    """Whoever asked has left while it waited."""


class Gate:
    """Runs work in threads, `at_once` of them; `waiting` more may wait in line.

    One that has waited for `patience` seconds is sent away.
    """

    def __init__(self, *, at_once: int, waiting: int, patience: float) -> None:
        self._free = anyio.Semaphore(at_once, max_value=at_once)
        self._threads = anyio.CapacityLimiter(at_once)
        self._line = waiting
        self._patience = patience
        self._in_line = 0

    async def run(
        self, work: Callable[[], _T], has_left: Callable[[], Awaitable[bool]]
    ) -> _T:
        """Return what `work` returns; `has_left` is asked when its turn comes.

        Raises:
            Busy: there is no place for it.
            Left: nobody waits for it any more.
        """
        await self._enter()
        try:
            if await has_left():
                raise Left
            return await to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._free.release()

    async def _enter(self) -> None:
        if self._free.value == 0 and self._in_line >= self._line:
            raise Busy
        self._in_line += 1
        try:
            with anyio.fail_after(self._patience):
                await self._free.acquire()
        except TimeoutError:
            raise Busy from None
        finally:
            self._in_line -= 1
