"""Folders of documentation and code in, search-ready collections out.

Names are looked up when first used: importing the package loads no torch, reads no
environment variable and logs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch_runner import BatchRunner
    from .config import KaggleGPUConfig, ModelConfig, RerankingConfig
    from .export.runtime import ExportRuntime
    from .facade import UltimateKaggleEmbedderV4
    from .models.catalogue import (
        KAGGLE_OPTIMIZED_MODELS,
        RERANKING_MODELS,
        SPARSE_MODELS,
    )
    from .models.manager import ModelManager
    from .stages.cross_encoder import CrossEncoderBatchExecutor
    from .stages.rerank import RerankPipeline
    from .stages.sparse import SparseVectorGenerator

_PLACES = {
    "BatchRunner": "batch_runner",
    "CrossEncoderBatchExecutor": "stages.cross_encoder",
    "ExportRuntime": "export.runtime",
    "KAGGLE_OPTIMIZED_MODELS": "models.catalogue",
    "KaggleGPUConfig": "config",
    "ModelConfig": "config",
    "ModelManager": "models.manager",
    "RERANKING_MODELS": "models.catalogue",
    "RerankPipeline": "stages.rerank",
    "RerankingConfig": "config",
    "SPARSE_MODELS": "models.catalogue",
    "SparseVectorGenerator": "stages.sparse",
    "UltimateKaggleEmbedderV4": "facade",
}

__all__ = [
    "KAGGLE_OPTIMIZED_MODELS",
    "RERANKING_MODELS",
    "SPARSE_MODELS",
    "BatchRunner",
    "CrossEncoderBatchExecutor",
    "ExportRuntime",
    "KaggleGPUConfig",
    "ModelConfig",
    "ModelManager",
    "RerankPipeline",
    "RerankingConfig",
    "SparseVectorGenerator",
    "UltimateKaggleEmbedderV4",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
