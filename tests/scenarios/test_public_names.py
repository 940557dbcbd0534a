"""The names that other programs import."""

from __future__ import annotations

import processor.kaggle_ultimate_embedder_v4 as earlier
import processor.ultimate_embedder as package

NAMES = {
    "BatchRunner",
    "CrossEncoderBatchExecutor",
    "ExportRuntime",
    "KAGGLE_OPTIMIZED_MODELS",
    "KaggleGPUConfig",
    "ModelConfig",
    "ModelManager",
    "RERANKING_MODELS",
    "RerankPipeline",
    "RerankingConfig",
    "SPARSE_MODELS",
    "SparseVectorGenerator",
    "UltimateKaggleEmbedderV4",
}


def test_every_public_name_can_be_had_and_no_other_is_promised() -> None:
    assert set(package.__all__) == NAMES
    assert all(getattr(package, name) is not None for name in NAMES)
    assert set(dir(package)) >= NAMES


def test_the_import_path_of_the_earlier_design_gives_the_same_class() -> None:
    assert earlier.UltimateKaggleEmbedderV4 is package.UltimateKaggleEmbedderV4
