"""Tiny randomly initialised masked language models, saved as they are published.

Their reference is transformers alone: one text, no padding, in float32, all logits.
"""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    XLMRobertaConfig,
)

from processor.ultimate_embedder.config import SparseModelConfig
from processor.ultimate_embedder.encoders.splade import SpladeEncoder
from processor.ultimate_embedder.encoders.splade_source import (
    SpladeSource,
    find_splade,
)

WINDOW = 48
VOCABULARY = 160
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = string.ascii_lowercase + string.digits + string.punctuation
_WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}

FAMILIES = ("bert", "distilbert", "xlm-roberta", "modernbert")


def _config(family: str, vocabulary: int) -> Any:
    if family == "distilbert":
        return DistilBertConfig(
            vocab_size=vocabulary,
            dim=32,
            hidden_dim=48,
            n_layers=2,
            n_heads=4,
            max_position_embeddings=WINDOW,
            initializer_range=0.4,
        )
    if family == "xlm-roberta":
        return XLMRobertaConfig(
            vocab_size=vocabulary, max_position_embeddings=WINDOW + 1, **_WIDE
        )
    if family == "modernbert":
        return ModernBertConfig(
            vocab_size=vocabulary,
            max_position_embeddings=WINDOW,
            local_attention=16,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
            **_WIDE,
        )
    return BertConfig(vocab_size=vocabulary, max_position_embeddings=WINDOW, **_WIDE)


def save_tokenizer(folder: Path) -> None:
    """Write a WordPiece tokenizer of single characters: it has a piece for any text."""
    pieces = [*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    tokenizer = Tokenizer(
        models.WordPiece(
            {piece: i for i, piece in enumerate(pieces)}, unk_token=_SPECIAL[1]
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def save_masked_lm(
    folder: Path, family: str = "bert", *, vocabulary: int = VOCABULARY
) -> Path:
    """Save a tiny model of a family; its embeddings are tied to its head."""
    torch.manual_seed(3)
    model = AutoModelForMaskedLM.from_config(_config(family, vocabulary))
    with torch.no_grad():  # a bias below zero makes vectors sparse
        bias = model.get_output_embeddings().bias
        bias.copy_(torch.randn_like(bias) - 3.0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def splade_config(folder: Path, **changes: Any) -> SparseModelConfig:
    return SparseModelConfig(
        name="tiny-splade",
        kind="splade",
        hf_model_id=str(folder),
        **{"max_tokens": WINDOW, **changes},
    )


def source_of(folder: Path, **changes: Any) -> SpladeSource:
    """Return the source of a folder, in float32."""
    found = find_splade(splade_config(folder), offline=True)
    return replace(found, **{"dtype": "float32", **changes})


def encoder_of(folder: Path, **changes: Any) -> SpladeEncoder:
    return SpladeEncoder.load(source_of(folder, **changes))


def some_texts(number: int, *, longest: int = WINDOW - 2) -> list[str]:
    """Return texts of one to `longest` letters, by default as the window holds."""
    draw = random.Random(1)
    lengths = [1, longest, longest - 1]
    lengths += [draw.randint(1, longest) for _ in range(number - 3)]
    return ["".join(draw.choices(_LETTERS[:36], k=length)) for length in lengths]


def reference(folder: Path, ids: list[int]) -> np.ndarray:
    """Return float32 [vocabulary]: the formula over all logits of one window."""
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        values: np.ndarray = torch.log1p(torch.relu(logits)).amax(dim=0).numpy()
    return values
