"""The import path of the earlier design; the code lives in `ultimate_embedder`."""

from .ultimate_embedder import (
    KaggleGPUConfig,
    ModelConfig,
    RerankingConfig,
    UltimateKaggleEmbedderV4,
)

__all__ = [
    "KaggleGPUConfig",
    "ModelConfig",
    "RerankingConfig",
    "UltimateKaggleEmbedderV4",
]
