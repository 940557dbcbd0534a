"""A tiny base: the same architecture as the embedded model's, made once."""

from __future__ import annotations

import pytest
from adaptation_parts import write_tiny_base

from processor.ultimate_embedder.config import RerankingConfig


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RerankingConfig:
    """Return a reranker that is the tiny base and nothing else."""
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")
