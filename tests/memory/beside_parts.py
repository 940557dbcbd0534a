"""Random SPLADE models and rerankers of each family, saved as they are published."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from memory_parts import FAMILIES, TINY, VOCABULARY, WINDOW, Size
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from processor.ultimate_embedder.config import RerankingConfig, SparseModelConfig
from processor.ultimate_embedder.encoders.splade_source import (
    SpladeSource,
    find_splade,
)

SPLADE_FAMILIES = ("bert", "distilbert", "xlm-roberta", "modernbert")
RERANK_FAMILIES = ("bert", "xlm-roberta", "modernbert", "qwen2", "qwen3")
DTYPES = ("float32", "bfloat16", "float16")
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_WORDS = ["a", *(f"word{i}" for i in range(VOCABULARY - len(_SPECIAL) - 1))]


def _save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words: a text of n words has n + 2 tokens."""
    vocabulary = {word: i for i, word in enumerate(_SPECIAL + _WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def save_splade(
    folder: Path, family: str, size: Size = TINY, *, vocabulary: int = VOCABULARY
) -> SparseModelConfig:
    """Save a masked language model; a bias below zero makes its vectors sparse."""
    torch.manual_seed(0)
    shape = FAMILIES[family][0](size)
    shape.vocab_size = vocabulary
    shape.initializer_range = 0.4
    model = AutoModelForMaskedLM.from_config(shape)
    with torch.no_grad():
        bias = model.get_output_embeddings().bias
        bias.copy_(torch.randn_like(bias) - 3.0)
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    return SparseModelConfig(
        name=f"{family}-splade",
        kind="splade",
        hf_model_id=str(folder),
        max_tokens=WINDOW,
    )


def splade_on_card(config: SparseModelConfig, dtype: str = "float32") -> SpladeSource:
    """Return a model's source, as for a card of this precision."""
    return find_splade(config, device="cuda:0", dtype=dtype, offline=True)


def save_reranker(folder: Path, family: str, size: Size = TINY) -> RerankingConfig:
    """Save a sequence classifier with one output."""
    torch.manual_seed(0)
    shape = FAMILIES[family][0](size)
    shape.num_labels = 1
    shape.initializer_range = 0.4
    AutoModelForSequenceClassification.from_config(shape).save_pretrained(folder)
    _save_tokenizer(folder)
    return RerankingConfig(
        name=f"{family}-reranker", hf_model_id=str(folder), max_tokens=WINDOW
    )


def random_texts(lengths: Sequence[int], seed: int = 0) -> list[str]:
    """Return texts of so many words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(_WORDS[1:], k=length)) for length in lengths]
