"""An encoder that survives a device running out of memory: smaller passes, same rows.

What it is given is cut by a budget of token positions, rows times the longest; `Passes`
has the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..records import Float32Array, UInt32Array
from .budget import Budget
from .passes import Call, DeviceUse, PassCost, Passes
from .protocols import AttentionEncoder


class AdaptiveEncoder:
    """An `AttentionEncoder` around another one, which it asks for smaller passes.

    `release`, `used_bytes` and `cap_bytes` are those of `DeviceUse`.
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
        self._encoder = encoder
        self._passes = Passes(
            DeviceUse(
                model=model,
                device=encoder.device,
                release=release,
                used_bytes=used_bytes,
                cap_bytes=cap_bytes,
            ),
            budget_tokens=budget_tokens,
            # A CPU pads each text to its own length, a GPU to the longest beside it.
            padded=encoder.device != "cpu",
        )

    @property
    def budget(self) -> Budget:
        """The most that a pass may take now."""
        return self._passes.budget

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
        return self._passes.take_cost()

    def _in_parts(self, ids: Sequence[UInt32Array], encode: Call) -> None:
        tokens = [len(row) for row in ids]
        self._passes.run([self.padded_length(one) for one in tokens], tokens, encode)
