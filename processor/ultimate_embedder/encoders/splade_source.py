"""A SPLADE model's files, found and checked; no weights are loaded.

Nothing here imports torch: a run that finds its vectors finished needs none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..config import LongTexts, SparseModelConfig
from ..errors import ModelError, ModelMismatch
from ..hardware import this_machine
from ..libraries import installed_versions
from .sources import ModelLocation, locate_model
from .tokenizer import HubTokenizer

RULES_REVISION = 1
"""Counted up when the same weights come to give other vectors."""

_LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpladeSource:
    """Where a model is, how it will be computed, and what its vectors depend on."""

    config: SparseModelConfig
    location: ModelLocation
    tokenizer: HubTokenizer
    vocabulary_size: int
    device: str
    dtype: str
    long_texts: LongTexts

    @property
    def fingerprint(self) -> str:
        """Equal for equal vectors: weights, tokenizer, precision, device, libraries."""
        facts = (
            str(RULES_REVISION),
            self.location.revision,
            self.tokenizer.fingerprint,
            str(self.vocabulary_size),
            self.device.partition(":")[0],
            self.dtype,
            self.long_texts,
            *installed_versions(_LIBRARIES).values(),
        )
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def find_splade(
    config: SparseModelConfig,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    offline: bool = False,
    long_texts: LongTexts = "windows",
) -> SpladeSource:
    """Find a model's files, fetching them if that is allowed; load no weights.

    `dtype` is by default the fastest precision of the device.

    Raises:
        ModelNotAvailable: they are not here, and cannot or must not be fetched.
        ModelMismatch: the tokenizer has more tokens than the model.
        ModelError: its config.json states no vocabulary.
    """
    location = locate_model(
        config.hf_model_id,
        revision=config.revision,
        offline=offline,
        trust_remote_code=config.trust_remote_code,
    )
    tokenizer = HubTokenizer(location.path, config.max_tokens)
    tokenizer.frame("document")
    size = _vocabulary_size(config.name, location.path)
    tokens = max(tokenizer.backend.get_vocab().values(), default=-1) + 1
    if tokens > size:
        raise ModelMismatch(
            f"Sparse model {config.name} has a vocabulary of {size}; its tokenizer has "
            f"{tokens} tokens.",
            cure="Fetch or save its files again.",
        )
    return SpladeSource(
        config=config,
        location=location,
        tokenizer=tokenizer,
        vocabulary_size=size,
        device=device,
        dtype=dtype or _dtype(device),
        long_texts=long_texts,
    )


def _vocabulary_size(name: str, path: Path) -> int:
    try:
        size = json.loads((path / "config.json").read_text("utf-8"))["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The config.json of sparse model {name} states no vocab_size.",
            cure="Give a masked language model in Hugging Face layout.",
        ) from error
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ModelError(f"Sparse model {name} states a vocabulary of {size!r}.")
    return size


def _dtype(device: str) -> str:
    if device == "cpu":
        return this_machine().cpu_dtype
    from .precision import cuda_dtype

    return cuda_dtype(device)
