"""Real models that compute on the CPU what a GPU would, with their bytes counted.

Each is on a device of so many bytes: a pass that would take more is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..config import ModelConfig, RerankingConfig
from ..memory_plan import PassProbe
from ..records import Float32Array, SparseVector, UInt32Array
from .classifier_loading import load_classifier, read_pair_tokenizer
from .cross_encoder import TorchCrossEncoder, pairs_like
from .dense_torch import TorchDenseEncoder
from .live_bytes import Meter, RunPass
from .loading import load_encoder
from .masked_lm import load_masked_lm
from .passes import DeviceUse
from .splade import SpladeEncoder
from .splade_source import SpladeSource

CARD = "cuda:0"
"""What the device is called."""


class MeteredEncoder(Meter):
    """An `AttentionEncoder`, and a `PassProbe` of itself."""

    device = CARD

    def __init__(
        self, path: Path, config: ModelConfig, *, dtype: str, total_bytes: int
    ) -> None:
        """Load a model.

        Raises:
            DeviceOutOfMemory: its weights are more than the device holds.
        """
        model = load_encoder(path, config, device="cpu", dtype=dtype)
        super().__init__(config.name, total_bytes, model)
        self.dtype = dtype
        self.dimension = config.vector_dim
        self._encoder = TorchDenseEncoder(
            model, config, device="cpu", dtype=dtype, as_gpu=True
        )

    def padded_length(self, tokens: int) -> int:
        """Return how many positions a GPU computes for a text of `tokens`."""
        return self._encoder.padded_length(tokens)

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm.

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        with self._metered(ids):
            return self._encoder.encode(ids)

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Return the vectors of `encode`, and each text's attention [length].

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        with self._metered(ids):
            return self._encoder.encode_with_attention(ids)

    def measure(self, rows: int, length: int) -> int:
        """Return the most bytes that a pass over [rows, length] takes beside weights.

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        return self.measured(self._encoder.encode, rows, length)

    @contextmanager
    def _metered(self, ids: Sequence[UInt32Array]) -> Iterator[None]:
        longest = max(self.padded_length(len(row)) for row in ids)
        with self.one_pass(len(ids), len(ids) * longest):
            yield


class MeteredProbe:
    """A `PassProbe` of what runs under a meter."""

    def __init__(self, meter: Meter, run: RunPass) -> None:
        self._meter = meter
        self._run = run

    def measure(self, rows: int, length: int) -> int:
        """Return the most bytes that a pass over [rows, length] takes beside weights.

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        return self._meter.measured(self._run, rows, length)


class MeteredSplade(SpladeEncoder):
    """A SPLADE model whose `meter` counts."""

    def __init__(
        self, source: SpladeSource, use: DeviceUse | None, *, total_bytes: int
    ) -> None:
        """Load a model; what it is told of its device is `use`.

        Raises:
            DeviceOutOfMemory: its weights are more than the device holds.
        """
        model, head = load_masked_lm(replace(source, device="cpu"))
        self.meter = Meter(source.config.name, total_bytes, model, head)
        on_card = replace(source, device=CARD)
        super().__init__(model, head, on_card, use=use, as_gpu=True)

    def forward(self, pieces: Sequence[UInt32Array]) -> list[SparseVector]:
        """Return the vectors of windows, computed in one pass.

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        longest = max(self._padded_length(len(piece)) for piece in pieces)
        with self.meter.one_pass(len(pieces), len(pieces) * longest):
            return super().forward(pieces)

    def pass_probe(self) -> PassProbe:
        """Return what measures a pass over windows."""
        return MeteredProbe(self.meter, super().forward)


class MeteredScorer(TorchCrossEncoder):
    """A reranker whose `meter` counts."""

    def __init__(
        self,
        config: RerankingConfig,
        *,
        dtype: str,
        total_bytes: int,
        offline: bool = True,
    ) -> None:
        """Find and load a model.

        Raises:
            DeviceOutOfMemory: its weights are more than the device holds.
        """
        loaded = load_classifier(
            config, device="cpu", dtype=dtype, offline=offline, alone=False
        )
        self.meter = Meter(config.name, total_bytes, loaded.model)
        super().__init__(
            loaded.model,
            read_pair_tokenizer(loaded.path, config),
            config,
            device=CARD,
            segments=loaded.segments,
            dtype=loaded.dtype,
        )

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return float32 [pairs]: logits.

        Raises:
            DeviceOutOfMemory: the batch takes more than is left.
        """
        taken = self.padded_tokens(self.pair_lengths(pairs))
        with self.meter.one_pass(len(pairs), taken):
            return super().score(pairs)

    def pass_probe(self) -> PassProbe:
        """Return what measures a pass over pairs."""
        return MeteredProbe(self.meter, self._unlisted)

    def _unlisted(self, texts: Sequence[UInt32Array]) -> Float32Array:
        return super().score(pairs_like(texts))
