"""Encoders that run out of memory when told to, and worker processes around one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.records import Float32Array, UInt32Array
from processor.ultimate_embedder.testing import HashingEncoder

Fails = Callable[[int, int], bool]
"""Told a call's number and its positions, says whether memory fails."""


def size(ids: Sequence[UInt32Array]) -> int:
    """Return the positions that a pass over these texts takes on a GPU."""
    return len(ids) * max(len(row) for row in ids)


class FailingEncoder(HashingEncoder):
    """Fails as told; keeps what was tried, and which texts went through."""

    def __init__(self, dimension: int, fails: Fails) -> None:
        super().__init__(dimension)
        self.device = "cuda:0"
        self.fails = fails
        self.tried: list[int] = []
        self.done: list[tuple[int, ...]] = []

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        self.tried.append(size(ids))
        if self.fails(len(self.tried), self.tried[-1]):
            raise DeviceOutOfMemory("The device is full.")
        self.done.extend(tuple(row.tolist()) for row in ids)
        return super().encode(ids)


def room_for(positions: int) -> Fails:
    return lambda _, asked: asked > positions
