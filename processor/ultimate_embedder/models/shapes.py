"""Shapes of the known models as published, for estimates before their files are here.

`parameters` counts what is loaded, as `encoders.architecture` counts it in the files;
a test holds each figure to the model that transformers makes of the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..memory_cost import Architecture, Head

STORED_BYTES: Mapping[str, int] = MappingProxyType(
    {"float32": 4, "bfloat16": 2, "float16": 2}
)
"""Of one figure in a file of that precision."""


def _bert(
    layers: int, hidden: int, parameters: int, head: Head = "none"
) -> Architecture:
    return Architecture(
        family="bert",
        layers=layers,
        hidden=hidden,
        intermediate=4 * hidden,
        heads=12,
        kv_heads=12,
        head_size=hidden // 12,
        vocabulary=30_522,
        gated=False,
        head=head,
        parameters=parameters,
    )


def _xlm_roberta_large(parameters: int, head: Head = "none") -> Architecture:
    return Architecture(
        family="xlm-roberta",
        layers=24,
        hidden=1024,
        intermediate=4096,
        heads=16,
        kv_heads=16,
        head_size=64,
        vocabulary=250_002,
        gated=False,
        head=head,
        parameters=parameters,
    )


def _qwen(
    family: str,
    *,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    parameters: int,
) -> Architecture:
    return Architecture(
        family=family,
        layers=28,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_size=128,
        vocabulary=vocabulary,
        gated=True,
        head="none",
        parameters=parameters,
    )


_MINILM = _bert(6, 384, 22_713_216)

SHAPES: Mapping[str, Architecture] = MappingProxyType(
    {
        "all-miniLM-l6": _MINILM,
        "qdrant-minilm-onnx": _MINILM,
        "bge-m3": _xlm_roberta_large(567_754_752),
        "qwen3-embedding-0.6b": _qwen(
            "qwen3",
            hidden=1024,
            intermediate=3072,
            heads=16,
            kv_heads=8,
            vocabulary=151_669,
            parameters=595_776_512,
        ),
        "jina-code-embeddings-1.5b": _qwen(
            "qwen2",
            hidden=1536,
            intermediate=8960,
            heads=12,
            kv_heads=2,
            vocabulary=151_936,
            parameters=1_543_714_304,
        ),
        "nomic-coderank": Architecture(
            family="nomic_bert",
            layers=12,
            hidden=768,
            intermediate=3072,
            heads=12,
            kv_heads=12,
            head_size=64,
            vocabulary=30_528,
            gated=True,
            head="none",
            parameters=136_731_648,
        ),
        "nomic-embed-code": _qwen(
            "qwen2",
            hidden=3584,
            intermediate=18_944,
            heads=28,
            kv_heads=4,
            vocabulary=152_064,
            parameters=7_070_619_136,
        ),
        "splade": _bert(12, 768, 109_514_298, "masked-lm"),
        "splade-v3": _bert(12, 768, 109_514_298, "masked-lm"),
        "residual-minilm-l6": _bert(6, 384, 22_713_601, "classifier"),
        "ms-marco-minilm-l6": _bert(6, 384, 22_713_601, "classifier"),
        "bge-reranker-v2-m3": _xlm_roberta_large(567_755_777, "classifier"),
    }
)
"""By key. Sparse models without weights of their own and listwise ones have none."""
