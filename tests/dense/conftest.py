"""The embedded model, loaded once a session, and texts of real files."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

import pytest

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager

PACKAGES = ("numpy", "torch", "transformers", "qdrant-client", "pydantic", "rich")


@pytest.fixture(scope="session")
def minilm() -> ModelConfig:
    return dense_model("all-miniLM-l6")


@pytest.fixture(scope="session")
def manager() -> ModelManager:
    return ModelManager(offline=True)


@pytest.fixture(scope="session")
def tokenizer(manager: ModelManager, minilm: ModelConfig) -> HubTokenizer:
    return manager.tokenizer(minilm)


@pytest.fixture(scope="session")
def encoder(manager: ModelManager, minilm: ModelConfig) -> Iterator[AttentionEncoder]:
    """In the precision that this machine uses by default."""
    with manager.resident(minilm) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Paragraphs of the READMEs of installed packages, short ones too."""
    pages = (importlib.metadata.metadata(name).get_payload() or "" for name in PACKAGES)
    pieces = [
        piece.strip() for page in pages for piece in re.split(r"\n\s*\n", str(page))
    ]
    return sorted({piece for piece in pieces if piece})[:120]


@pytest.fixture(scope="session")
def fitting(texts: list[str], tokenizer: HubTokenizer) -> list[str]:
    """Those of the texts that fit the window."""
    ids = tokenizer.encode(texts, "document").ids
    return [
        text
        for text, row in zip(texts, ids, strict=True)
        if len(row) <= tokenizer.max_tokens
    ]
