"""(query, document) pairs to raw scores with torch: the loading of CrossEncoders.

On a CPU each pair is a forward pass of its own, and threads of one core each take pairs
in turn. So the bytes of a score depend on its pair alone, not on its neighbours, the
size of a batch or the number of threads. On a GPU the pairs of a call are one batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Encoding, Tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)
from transformers.utils.logging import disable_progress_bar

from ..config import RerankingConfig
from ..errors import (
    DeviceOutOfMemory,
    ModelError,
    ModelMismatch,
    ModelNotAvailable,
)
from ..hardware import this_machine
from ..records import Float32Array
from .bert_pairs import BertPairs, BertShape
from .dense_torch import one_thread
from .difference_model import base_config, load_difference
from .sources import locate_model

_CURE = "Choose a CrossEncoder with one output, saved as safetensors."


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Parameters in float32, the folder with their tokenizer, and a model if made."""

    config: Any
    state: Mapping[str, torch.Tensor]
    path: Path
    model: Any = None


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
        threads: int = 1,
    ) -> None:
        """Hold a loaded model; `segments` tells whether it is given type ids.

        `model` is a `BertPairs`, or a classifier of transformers.
        """
        self.name = config.name
        self.device = device
        self.threads = threads
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._segments = segments

    @classmethod
    def load(
        cls,
        config: RerankingConfig,
        *,
        device: str = "cpu",
        offline: bool = False,
        dtype: str | None = None,
        threads: int = 0,
    ) -> TorchCrossEncoder:
        """Find and load the model that `config` names; no pickle, no foreign code.

        On a CPU BERT-like models compute in `dtype`, by default the fastest precision
        that the processor has; all others in float32. No `threads` means one a core.

        Raises:
            ModelNotAvailable: its files are not here and cannot be fetched.
            ModelMismatch: it has not one output, lacks weights, has a shorter window
                than stated, or its difference belongs to another base.
            ModelError: the files cannot be loaded.
        """
        # A bar of its own would break the run's display.
        disable_progress_bar()  # type: ignore[no-untyped-call]
        loaded = (_put_together if config.difference else _from_files)(config, offline)
        _check(loaded.config, config)
        lean = device == "cpu" and _lean(loaded, dtype or this_machine().cpu_dtype)
        return cls(
            lean or _classifier(loaded).to(device),
            _tokenizer(loaded.path, config),
            config,
            device=device,
            segments=_uses_segments(loaded.path, loaded.config),
            threads=threads or this_machine().cores,
        )

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return token counts of pairs after truncation, special tokens counted."""
        return [len(encoding) for encoding in self._encode(pairs)]

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """Return the positions computed for pairs of these lengths in one call."""
        if isinstance(self._model, BertPairs):
            return sum(map(self._model.padded_length, lengths))
        if self.device == "cpu":
            return sum(lengths)
        return max(lengths, default=0) * len(lengths)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return float32 [pairs]: logits.

        Raises:
            DeviceOutOfMemory: the batch does not fit the device.
        """
        encodings = self._encode(pairs)
        try:
            if self.device == "cpu":
                return self._one_by_one(encodings)
            return self._at_once(encodings)
        except torch.OutOfMemoryError as error:
            raise DeviceOutOfMemory(
                f"Reranker {self.name} ran out of memory on {self.device} with "
                f"{len(pairs)} pairs.",
                cure="Lower EMBEDDER_RERANK_BATCH_CAP.",
            ) from error

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> list[Encoding]:
        return self._tokenizer.encode_batch(list(pairs))

    def _one_by_one(self, encodings: Sequence[Encoding]) -> Float32Array:
        """Return float32 [pairs]; the longest go first, so that threads end together.

        torch lets go of Python's lock while it computes.
        """
        order = sorted(range(len(encodings)), key=lambda i: -len(encodings[i]))
        scores = np.empty(len(encodings), dtype=np.float32)
        longest_first = (encodings[i] for i in order)
        with one_thread():
            if min(self.threads, len(encodings)) < 2:
                scores[order] = list(map(self._logit, longest_first))
                return scores
            with ThreadPoolExecutor(
                self.threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                scores[order] = list(pool.map(self._logit, longest_first))
        return scores

    def _logit(self, encoding: Encoding) -> float:
        if not isinstance(self._model, BertPairs):
            return float(self._at_once([encoding])[0])
        ids = np.array(encoding.ids, dtype=np.int64)
        types = np.array(encoding.type_ids, dtype=np.int64)
        return self._model.logit(ids, types if self._segments else types * 0)

    def _at_once(self, encodings: Sequence[Encoding]) -> Float32Array:
        if not encodings:
            return np.empty(0, dtype=np.float32)
        with torch.inference_mode():
            logits = self._model(**self._inputs(encodings)).logits[:, 0].float().cpu()
        scores: Float32Array = logits.numpy()
        return scores

    def _inputs(self, encodings: Sequence[Encoding]) -> dict[str, torch.Tensor]:
        """Return int64 tensors [pairs, longest], padded on the right."""
        shape = (len(encodings), max(len(encoding) for encoding in encodings))
        ids = np.full(shape, self._model.config.pad_token_id or 0, dtype=np.int64)
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


def _from_files(config: RerankingConfig, offline: bool) -> _Loaded:
    location = locate_model(
        config.hf_model_id, revision=config.revision, offline=offline
    )
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            location.path,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"Reranker {config.name} cannot be loaded: {reason}", cure=_CURE
        ) from error
    _check_weights(report["missing_keys"], config)
    return _Loaded(model.config, model.state_dict(), location.path, model.eval())


def _put_together(config: RerankingConfig, offline: bool) -> _Loaded:
    found = load_difference(config, offline=offline)
    state = {name: torch.from_numpy(tensor) for name, tensor in found.state.items()}
    return _Loaded(BertConfig(**base_config(found.base)), state, found.base)


def _lean(loaded: _Loaded, dtype: str) -> BertPairs | None:
    """Return the form for single pairs on a CPU, None where the model has none."""
    shape = BertShape.of(loaded.config)
    if shape is None or shape.parameters() != set(loaded.state):
        return None
    return BertPairs(loaded.state, shape, getattr(torch, dtype))


def _classifier(loaded: _Loaded) -> Any:
    """Return the model of transformers, made now where none was loaded."""
    if loaded.model is not None:
        return loaded.model
    model: Any = BertForSequenceClassification(loaded.config)
    model.load_state_dict(loaded.state)
    return model.eval()


def _check_weights(missing: Iterable[str], config: RerankingConfig) -> None:
    """Refuse what transformers only warns of: weights left at random numbers."""
    lacking = sorted(missing)
    if lacking:
        raise ModelMismatch(
            f"Reranker {config.name} lacks {len(lacking)} weights in its files, the "
            f"first is {lacking[0]}.",
            cure=_CURE,
        )


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
