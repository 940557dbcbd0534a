"""Models of random weights in published shapes, saved as a run finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    Qwen2Config,
    Qwen3Config,
    XLMRobertaConfig,
)

from processor.ultimate_embedder.config import Pooling
from processor.ultimate_embedder.memory_plan import ModelKind

WORDS = 400
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_CLASSES: Mapping[ModelKind, Any] = {
    "dense": AutoModel,
    "sparse": AutoModelForMaskedLM,
    "rerank": AutoModelForSequenceClassification,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's published shape, what it is for, its window, and how it pools."""

    make: Callable[[], Any]
    kind: ModelKind
    window: int
    pooling: Pooling = "cls"


def _bge_m3() -> XLMRobertaConfig:
    return XLMRobertaConfig(
        vocab_size=250002,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        max_position_embeddings=8194,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=1,
    )


def _jina_code() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        use_cache=False,
    )


def _qwen3() -> Qwen3Config:
    return Qwen3Config(
        vocab_size=151669,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32768,
        use_cache=False,
    )


SHAPES = {
    "bge-m3": Shape(_bge_m3, "dense", 8192),
    "jina-code-embeddings-1.5b": Shape(_jina_code, "dense", 8192, "last"),
    "qwen3-embedding-0.6b": Shape(_qwen3, "dense", 8192, "last"),
    "splade": Shape(BertConfig, "sparse", 512),
    "bge-reranker-v2-m3": Shape(_bge_m3, "rerank", 8192),
}

_SMALL: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 258,
    "pad_token_id": 1,
}
TINY_SHAPES = {
    "tiny-xlm-roberta": Shape(lambda: XLMRobertaConfig(**_SMALL), "dense", 256),
    "tiny-qwen3": Shape(
        lambda: Qwen3Config(
            **_SMALL,
            num_key_value_heads=2,
            head_dim=8,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=2,
        ),
        "dense",
        256,
        "last",
    ),
    "tiny-splade": Shape(lambda: BertConfig(**_SMALL), "sparse", 256),
    "tiny-reranker": Shape(
        lambda: XLMRobertaConfig(**_SMALL, num_labels=1), "rerank", 256
    ),
}


def save(folder: Path, shape: Shape) -> int:
    """Save weights in 16 bits, settings and tokenizer; return how many weights."""
    torch.manual_seed(0)
    model = _CLASSES[shape.kind].from_config(shape.make(), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _save_tokenizer(folder: Path) -> None:
    """Write one of whole words: n words are n tokens, and special ones."""
    words = [*_SPECIAL, "a", *(f"w{i}" for i in range(WORDS))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
