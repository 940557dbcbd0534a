"""Cards to measure models on: a real one, and one that is pretended on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from processor.ultimate_embedder.config import (
    GPU_CONTEXT_BYTES,
    GPU_MARGIN_BYTES,
    ModelConfig,
    RerankingConfig,
)
from processor.ultimate_embedder.encoders.cross_encoder import TorchCrossEncoder
from processor.ultimate_embedder.encoders.dense import open_dense
from processor.ultimate_embedder.encoders.device_probe import (
    CudaProbe,
    device_peak_bytes,
    enforce_cap,
)
from processor.ultimate_embedder.encoders.passes import DeviceUse
from processor.ultimate_embedder.encoders.precision import cuda_dtype
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.encoders.splade import SpladeEncoder
from processor.ultimate_embedder.encoders.splade_source import SpladeSource
from processor.ultimate_embedder.testing import FakeDevice


class Card(Protocol):
    """Where models are loaded and measured."""

    name: str
    device: str
    dtype: str

    def begin(self, cap_bytes: int) -> None:
        """Hold this process to a cap; peaks start anew."""

    def dense(self, folder: Path, config: ModelConfig) -> AttentionEncoder:
        """Load an `AttentionEncoder`."""

    def splade(self, source: SpladeSource, use: DeviceUse) -> SpladeEncoder:
        """Load a SPLADE model."""

    def scorer(self, config: RerankingConfig) -> TorchCrossEncoder:
        """Load a reranker."""

    def peak_bytes(self) -> int:
        """Return the most held since `begin`, context included."""

    def used_bytes(self) -> int:
        """Free what is not needed, and return what is held."""


class RealCard:
    """A CUDA device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.name = torch.cuda.get_device_name(device)
        self.dtype = cuda_dtype(device)
        self._probe = CudaProbe()

    def begin(self, cap_bytes: int) -> None:
        """Limit the allocator before weights move."""
        self._probe.free(self.device)
        enforce_cap(self.device, cap_bytes)

    def dense(self, folder: Path, config: ModelConfig) -> AttentionEncoder:
        """Load with torch."""
        return open_dense(folder, config, device=self.device, dtype=self.dtype)

    def splade(self, source: SpladeSource, use: DeviceUse) -> SpladeEncoder:
        """Load with torch."""
        return SpladeEncoder.load(source, use)

    def scorer(self, config: RerankingConfig) -> TorchCrossEncoder:
        """Load with torch."""
        return TorchCrossEncoder.load(
            config, device=self.device, dtype=self.dtype, offline=True
        )

    def peak_bytes(self) -> int:
        """Return what the allocator reserved at most, and the context."""
        return device_peak_bytes(self.device)

    def used_bytes(self) -> int:
        """Return what this process holds."""
        self._probe.free(self.device)
        return self._probe.used_bytes(self.device)


class PretendedCard:
    """A card that counts the tensors of real passes on the CPU; its context is taken
    to be what a plan reckons for one."""

    device = "cuda:0"
    name = "pretended card"
    dtype = "float32"

    def begin(self, cap_bytes: int) -> None:
        """Take a new card."""
        self._card = FakeDevice(cap_bytes - GPU_CONTEXT_BYTES - GPU_MARGIN_BYTES)

    def dense(self, folder: Path, config: ModelConfig) -> AttentionEncoder:
        """Load with bytes counted."""
        with self._card.resident(folder, config, self.dtype) as encoder:
            return encoder

    def splade(self, source: SpladeSource, use: DeviceUse) -> SpladeEncoder:
        """Load with bytes counted."""
        return self._card.load_splade(source, use)

    def scorer(self, config: RerankingConfig) -> TorchCrossEncoder:
        """Load with bytes counted."""
        return self._card.load_scorer(config, self.dtype)

    def peak_bytes(self) -> int:
        """Return what was counted at most, and a context."""
        return GPU_CONTEXT_BYTES + self._card.peak_bytes

    def used_bytes(self) -> int:
        """Return a context: models of a pretended card are gone with it."""
        return GPU_CONTEXT_BYTES
