"""Tiny models saved as they are published: an encoder, a SPLADE model, a reranker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
)

WIDTH = 16
WINDOW = 64
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_WORDS = [*_SPECIAL, *(f"word{i}" for i in range(60))]


def _config(**more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(_WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=WINDOW,
        **more,
    )


def _save_tokenizer(folder: Path) -> None:
    vocabulary = {word: place for place, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def save_dense(folder: Path, **prompts: str) -> Path:
    """Write an embedding model with CLS pooling and these prompts."""
    BertModel(_config()).save_pretrained(folder)
    _save_tokenizer(folder)
    files: dict[str, Any] = {
        "sentence_bert_config": {"max_seq_length": WINDOW - 16},
        "config_sentence_transformers": {"prompts": prompts},
        "1_Pooling/config": {"pooling_mode_cls_token": True},
    }
    for name, content in files.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def save_splade(folder: Path) -> Path:
    """Write a masked language model."""
    BertForMaskedLM(_config()).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


def save_reranker(folder: Path, labels: int = 1) -> Path:
    """Write a classifier of pairs."""
    BertForSequenceClassification(_config(num_labels=labels)).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder
