"""(query, document) pairs to raw scores with torch: the loading of CrossEncoders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from transformers import AutoModelForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from ..config import RerankingConfig
from ..errors import (
    DeviceOutOfMemory,
    ModelError,
    ModelMismatch,
    ModelNotAvailable,
)
from ..records import Float32Array
from .sources import locate_model

_CURE = "Choose a CrossEncoder with one output, saved as safetensors."


class TorchCrossEncoder:
    """A sequence classifier with one output: its logit, with no activation.

    Satisfies `protocols.PairScorer`. Pairs longer than the window lose tokens from
    the longer side, as in sentence-transformers.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        config: RerankingConfig,
        *,
        device: str,
        segments: bool,
    ) -> None:
        """Hold a loaded model; `segments` tells whether it is given type ids."""
        self.name = config.name
        self.device = device
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._pad_id = model.config.pad_token_id or 0
        self._segments = segments

    @classmethod
    def load(
        cls, config: RerankingConfig, *, device: str = "cpu", offline: bool = False
    ) -> TorchCrossEncoder:
        """Find and load the model that `config` names; no pickle, no foreign code.

        Raises:
            ModelNotAvailable: its files are not here and cannot be fetched.
            ModelMismatch: it has not one output, or a shorter window than stated.
            ModelError: the files cannot be loaded.
        """
        # A bar of its own would break the run's display.
        disable_progress_bar()  # type: ignore[no-untyped-call]
        location = locate_model(
            config.hf_model_id, revision=config.revision, offline=offline
        )
        tokenizer = _tokenizer(location.path, config)
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                location.path,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(
                f"Reranker {config.name} cannot be loaded: {reason}", cure=_CURE
            ) from error
        _check(model.config, config)
        return cls(
            model.eval().to(device),
            tokenizer,
            config,
            device=device,
            segments=_uses_segments(location.path, model.config),
        )

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return token counts of pairs after truncation, special tokens counted."""
        return [len(encoding) for encoding in self._encode(pairs)]

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return float32 [pairs]: logits, computed in one forward pass.

        Raises:
            DeviceOutOfMemory: the batch does not fit the device.
        """
        if not pairs:
            return np.empty(0, dtype=np.float32)
        inputs = self._inputs(self._encode(pairs))
        try:
            with torch.inference_mode():
                logits = self._model(**inputs).logits[:, 0].float().cpu()
        except torch.OutOfMemoryError as error:
            raise DeviceOutOfMemory(
                f"Reranker {self.name} ran out of memory on {self.device} with "
                f"{len(pairs)} pairs.",
                cure="Lower EMBEDDER_RERANK_BATCH_CAP.",
            ) from error
        scores: Float32Array = logits.numpy()
        return scores

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> list[Encoding]:
        return self._tokenizer.encode_batch(list(pairs))

    def _inputs(self, encodings: Sequence[Encoding]) -> dict[str, torch.Tensor]:
        """Return int64 tensors [pairs, longest], padded on the right."""
        shape = (len(encodings), max(len(encoding) for encoding in encodings))
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        for place, encoding in enumerate(encodings):
            length = len(encoding)
            ids[place, :length] = encoding.ids
            types[place, :length] = encoding.type_ids
            mask[place, :length] = 1
        arrays = {"input_ids": ids, "attention_mask": mask}
        if self._segments:
            arrays["token_type_ids"] = types
        return {
            name: torch.from_numpy(array).to(self.device)
            for name, array in arrays.items()
        }


def _tokenizer(path: Path, config: RerankingConfig) -> Tokenizer:
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelNotAvailable(
            f"Reranker {config.name} has no tokenizer.json.",
            cure="Save the model once with a fast tokenizer.",
        )
    tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config.max_tokens, strategy="longest_first")
    return tokenizer


def _uses_segments(path: Path, loaded: Any) -> bool:
    """Say whether the model tells query from document by token type ids.

    Its tokenizer's list of inputs decides; without one, the model's table of types.
    """
    file = path / "tokenizer_config.json"
    names = None
    if file.is_file():
        names = json.loads(file.read_bytes()).get("model_input_names")
    if names is not None:
        return "token_type_ids" in names
    return bool(getattr(loaded, "type_vocab_size", 0) > 1)


def _check(loaded: Any, config: RerankingConfig) -> None:
    if loaded.num_labels != 1:
        raise ModelMismatch(
            f"Reranker {config.name} has {loaded.num_labels} outputs, not one.",
            cure=_CURE,
        )
    positions = getattr(loaded, "max_position_embeddings", math.inf)
    if config.max_tokens > positions:
        raise ModelMismatch(
            f"Reranker {config.name} has {positions} positions; its window is set to "
            f"{config.max_tokens}."
        )
