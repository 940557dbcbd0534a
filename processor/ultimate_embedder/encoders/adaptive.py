"""An encoder that survives a device running out of memory: smaller passes, same rows.

What it is given is cut by a budget of token positions, rows times the longest. A pass
that fails is done again in halves, under a lowered budget (`Budget` has the rule). The
texts keep their places. Where one text alone does not fit, there is nothing to split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DeviceOutOfMemory
from ..records import Float32Array, UInt32Array
from .budget import Budget
from .protocols import AttentionEncoder

_GIB = 2**30
_CURE = (
    "{} Or leave the model out, or chunk with a smaller --max-tokens. The same command "
    "goes on from here."
)
_MORE_ROOM = "Free the device or raise --gpu-memory-cap."
_FEWER_WORKERS = "Use fewer workers."


@dataclass(frozen=True, slots=True)
class PassCost:
    """What passes took: rows of each that went well, positions computed, failures."""

    rows: tuple[int, ...]
    positions: int
    oom_retries: int


class AdaptiveEncoder:
    """An `AttentionEncoder` around another one, which it asks for smaller passes.

    `release` is called after a failure, to give back what the device's allocator
    keeps. `used_bytes` tells, for the message at the end, how much memory was in use,
    and `cap_bytes` how much may be.
    """

    def __init__(
        self,
        encoder: AttentionEncoder,
        model: str,
        *,
        budget_tokens: int | None = None,
        release: Callable[[], None] = lambda: None,
        used_bytes: Callable[[], int | None] = lambda: None,
        cap_bytes: int | None = None,
    ) -> None:
        """Wrap `encoder`; without a budget nothing is cut until memory fails."""
        self.budget = Budget(budget_tokens)
        self._encoder = encoder
        self._model = model
        self._release = release
        self._used_bytes = used_bytes
        self._cap_bytes = cap_bytes
        self._forget()

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self._encoder.dimension

    @property
    def dtype(self) -> str:
        """Precision of the weights."""
        return self._encoder.dtype

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._encoder.device

    def padded_length(self, tokens: int) -> int:
        """Return how many token positions are computed for a text of `tokens`."""
        return self._encoder.padded_length(tokens)

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm.

        Raises:
            DeviceOutOfMemory: one text alone does not fit; `row` is its place.
        """
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)

        def encode(start: int, stop: int) -> None:
            vectors[start:stop] = self._encoder.encode(ids[start:stop])

        self._in_parts(ids, encode)
        return vectors

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Return the vectors of `encode`, and each text's attention [length].

        Raises:
            DeviceOutOfMemory: one text alone does not fit; `row` is its place.
        """
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        attention: list[Float32Array] = []

        def encode(start: int, stop: int) -> None:
            found, weights = self._encoder.encode_with_attention(ids[start:stop])
            vectors[start:stop] = found
            attention.extend(weights)

        self._in_parts(ids, encode)
        return vectors, attention

    def take_cost(self) -> PassCost:
        """Return what passes took since this was last asked."""
        cost = PassCost(tuple(self._rows), self._positions, self._retries)
        self._forget()
        return cost

    def _forget(self) -> None:
        self._rows: list[int] = []
        self._positions = 0
        self._retries = 0

    def _in_parts(
        self, ids: Sequence[UInt32Array], encode: Callable[[int, int], None]
    ) -> None:
        """Call `encode(start, stop)` in order, until every text was in one that went
        well."""
        lengths = [self.padded_length(len(row)) for row in ids]
        start = 0
        while start < len(lengths):
            stop = self._stop(lengths, start)
            size = _size(lengths[start:stop])
            if self._fits(encode, start, stop, ids):
                self.budget.succeeded(size)
                self._count(lengths[start:stop])
                start = stop
                continue
            # Not where the failure is handled: it holds on to what did not fit.
            self._retries += 1
            self._release()
            self.budget.failed(size)

    def _stop(self, lengths: Sequence[int], start: int) -> int:
        """Return where a pass from `start` ends: one text at least."""
        stop = start + 1
        while stop < len(lengths) and self.budget.allows(
            _size(lengths[start : stop + 1])
        ):
            stop += 1
        return stop

    def _fits(
        self,
        encode: Callable[[int, int], None],
        start: int,
        stop: int,
        ids: Sequence[UInt32Array],
    ) -> bool:
        try:
            encode(start, stop)
        except DeviceOutOfMemory as error:
            if stop - start == 1:
                raise self._does_not_fit(start, len(ids[start])) from error
            return False
        return True

    def _count(self, lengths: Sequence[int]) -> None:
        self._rows.append(len(lengths))
        # A CPU pads each text to its own length, a GPU to the longest beside it.
        on_cpu = self.device == "cpu"
        self._positions += sum(lengths) if on_cpu else _size(lengths)

    def _does_not_fit(self, place: int, tokens: int) -> DeviceOutOfMemory:
        used, cap = self._used_bytes(), self._cap_bytes
        memory = "" if used is None else f", {used / _GIB:.2f} GiB ({used} bytes) used"
        if cap is not None:
            memory += f", the cap is {cap / _GIB:.2f} GiB"
        return DeviceOutOfMemory(
            f"Model {self._model} ran out of memory on {self.device} with one text of "
            f"{tokens} tokens alone{memory}.",
            cure=_CURE.format(_FEWER_WORKERS if self.device == "cpu" else _MORE_ROOM),
            row=place,
        )


def _size(lengths: Sequence[int]) -> int:
    return len(lengths) * max(lengths)
