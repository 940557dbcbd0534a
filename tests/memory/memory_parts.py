"""Random models of each family, of any size, saved as they are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    NomicBertConfig,
    Qwen2Config,
    Qwen3Config,
    XLMRobertaConfig,
)

from processor.ultimate_embedder.config import ModelConfig, Pooling
from processor.ultimate_embedder.records import UInt32Array

WINDOW = 512
VOCABULARY = 100


@dataclass(frozen=True)
class Size:
    """Widths of a model; heads share keys where the family can."""

    hidden: int
    intermediate: int
    heads: int


TINY = Size(32, 48, 4)
MEDIUM = Size(192, 640, 8)


def _stated(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": 3,
        "num_attention_heads": size.heads,
        "max_position_embeddings": WINDOW + 2,
        "pad_token_id": 1,
    }


FAMILIES: dict[str, tuple[Callable[[Size], Any], Pooling]] = {
    "bert": (lambda size: BertConfig(**_stated(size)), "mean"),
    "xlm-roberta": (lambda size: XLMRobertaConfig(**_stated(size)), "cls"),
    "distilbert": (
        lambda size: DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=size.hidden,
            hidden_dim=size.intermediate,
            n_layers=3,
            n_heads=size.heads,
            max_position_embeddings=WINDOW + 2,
        ),
        "mean",
    ),
    "nomic-bert": (lambda size: NomicBertConfig(**_stated(size)), "cls"),
    "modernbert": (
        lambda size: ModernBertConfig(
            **_stated(size),
            bos_token_id=0,
            eos_token_id=2,
            cls_token_id=0,
            sep_token_id=2,
        ),
        "mean",
    ),
    "qwen2": (
        lambda size: Qwen2Config(
            **_stated(size),
            num_key_value_heads=size.heads // 2,
            bos_token_id=0,
            eos_token_id=2,
        ),
        "last",
    ),
    "qwen3": (
        lambda size: Qwen3Config(
            **_stated(size),
            num_key_value_heads=size.heads // 2,
            head_dim=2 * size.hidden // size.heads,
            bos_token_id=0,
            eos_token_id=2,
        ),
        "last",
    ),
}


def save_family(folder: Path, family: str, size: Size = TINY) -> ModelConfig:
    """Save a random model; return what must be found in the folder."""
    make, pooling = FAMILIES[family]
    torch.manual_seed(0)
    AutoModel.from_config(make(size)).save_pretrained(folder)
    return ModelConfig(
        name=family,
        hf_model_id=str(folder),
        vector_dim=size.hidden,
        max_tokens=WINDOW,
        pooling=pooling,
    )


def random_ids(lengths: Sequence[int], seed: int = 0) -> list[UInt32Array]:
    """Return texts of these lengths, as ids."""
    draw = np.random.default_rng(seed)
    return [draw.integers(5, VOCABULARY, n, dtype=np.uint32) for n in lengths]
