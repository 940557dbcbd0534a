"""A dense model opened with the backend that its configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..config import ModelConfig
from .protocols import AttentionEncoder


class OpenedEncoder(AttentionEncoder, Protocol):
    """An encoder with weights to let go of."""

    def close(self) -> None:
        """Let go of the weights, whoever still refers to this encoder."""


def open_dense(
    path: Path, config: ModelConfig, *, device: str, dtype: str
) -> OpenedEncoder:
    """Return the model in the folder `path`, loaded and checked against `config`.

    Raises:
        MissingExtra: its backend is not installed.
        ModelError: the files cannot be loaded, or are not what `config` states.
        DeviceOutOfMemory: the weights do not fit the device.
    """
    if config.backend == "onnx":
        from .dense_onnx import OnnxDenseEncoder

        return OnnxDenseEncoder.load(path, config, device=device, dtype=dtype)
    from .dense_torch import TorchDenseEncoder

    return TorchDenseEncoder.load(path, config, device=device, dtype=dtype)
