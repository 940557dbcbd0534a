"""Tiny randomly initialised models of each architecture, saved as they are published.

A model's reference is transformers alone: one text, no padding, in float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    ModernBertConfig,
    NomicBertConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from processor.ultimate_embedder.config import ModelConfig, Pooling
from processor.ultimate_embedder.records import Float32Array, UInt32Array

WIDTH = 32
WINDOW = 80
WORDS = [f"word{i}" for i in range(90)]
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 1,
}
_DECODER = {**_SHAPE, "num_key_value_heads": 2, "max_position_embeddings": WINDOW}

FAMILIES: dict[str, tuple[Callable[[], Any], Pooling]] = {
    "bert": (lambda: BertConfig(**_SHAPE, max_position_embeddings=WINDOW), "mean"),
    "roberta": (
        lambda: RobertaConfig(**_SHAPE, max_position_embeddings=WINDOW + 2),
        "mean",
    ),
    "xlm-roberta": (
        lambda: XLMRobertaConfig(**_SHAPE, max_position_embeddings=WINDOW + 2),
        "cls",
    ),
    "nomic-bert": (
        lambda: NomicBertConfig(**_SHAPE, max_position_embeddings=WINDOW),
        "cls",
    ),
    "modernbert": (
        lambda: ModernBertConfig(
            **_SHAPE,
            max_position_embeddings=WINDOW,
            local_attention=16,
            global_attn_every_n_layers=2,
            bos_token_id=0,
            eos_token_id=2,
            cls_token_id=0,
            sep_token_id=2,
        ),
        "mean",
    ),
    "qwen2": (lambda: Qwen2Config(**_DECODER, bos_token_id=0, eos_token_id=2), "last"),
    "qwen3": (
        lambda: Qwen3Config(**_DECODER, head_dim=8, bos_token_id=0, eos_token_id=2),
        "last",
    ),
}


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer.json of whole words with a token at each end."""
    vocabulary = {word: i for i, word in enumerate(_SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def save_family(folder: Path, family: str, *, seed: int = 0) -> ModelConfig:
    """Save a tiny model of a family as safetensors; return what must be found."""
    make, pooling = FAMILIES[family]
    torch.manual_seed(seed)
    model = AutoModel.from_config(make())
    with torch.no_grad():
        for parameter in model.parameters():
            # The usual 0.02 leaves all texts alike: an error would not show.
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(folder)
    return ModelConfig(
        name=family,
        hf_model_id=str(folder),
        vector_dim=WIDTH,
        max_tokens=WINDOW,
        pooling=pooling,
    )


def some_texts(number: int, *, seed: int = 0) -> list[str]:
    """Return texts of mixed lengths, the longest fills the window."""
    draw = random.Random(seed)
    lengths = [1, 14, 15, 30, WINDOW - 3, WINDOW - 2]
    lengths += [draw.randint(1, WINDOW - 2) for _ in range(number - len(lengths))]
    return [" ".join(draw.choices(WORDS, k=length)) for length in lengths]


def reference(config: ModelConfig, ids: list[UInt32Array]) -> Float32Array:
    """Return float32 [texts, width] by transformers alone, text by text."""
    model = AutoModel.from_pretrained(config.hf_model_id, dtype=torch.float32).eval()
    vectors = []
    for row in ids:
        with torch.inference_mode():
            states = model(input_ids=torch.from_numpy(row.astype(np.int64))[None])[0][0]
        chosen = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}
        vector = chosen[config.pooling].numpy()
        vectors.append(vector / np.linalg.norm(vector))
    return np.stack(vectors)
