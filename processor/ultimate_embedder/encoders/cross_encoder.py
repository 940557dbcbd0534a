"""(query, document) pairs to raw scores with torch.

On a CPU each pair is a forward pass of its own, and threads of one core each take pairs
in turn. So the bytes of a score depend on its pair alone, not on its neighbours, the
size of a batch or the number of threads. On a GPU the pairs of a call are one batch,
padded on the right; a decoder that names no padding token takes them one by one, since
it finds a pair's last token by that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from ..config import RerankingConfig
from ..hardware import this_machine
from ..memory_cost import padded_length
from ..memory_plan import PassProbe
from ..records import Float32Array, UInt32Array
from .bert_pairs import BertPairs
from .classifier_loading import load_classifier, read_pair_tokenizer
from .dense_torch import one_thread
from .loading import padding_id
from .out_of_memory import out_of_memory_named
from .precision import check_finite, cuda_dtype


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
        dtype: str = "float32",
        threads: int = 1,
        together: bool | None = None,
    ) -> None:
        """Hold a loaded model; `segments` tells whether it is given type ids.

        `model` is a `BertPairs`, or a classifier of transformers. `together` tells
        whether the pairs of a call are one batch, by default so on a GPU.
        """
        self.name = config.name
        self.device = device
        self.dtype = dtype
        self.threads = threads
        can = not isinstance(model, BertPairs) and _finds_ends(model)
        self._together = can and (device != "cpu" if together is None else together)
        self._model = model
        self._tokenizer = tokenizer
        self._segments = segments
        self._window = config.max_tokens
        self._counted: dict[tuple[str, str], Encoding] = {}

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

        It computes in `dtype`, by default the fastest precision that the device has. No
        `threads` means one a core.

        Raises:
            ModelNotAvailable: its files are not here and cannot be fetched, or it ranks
                lists with code of its own.
            ModelMismatch: it has not one output, lacks weights, has a shorter window
                than stated, or its difference belongs to another base.
            ModelError: the files cannot be loaded.
            DeviceOutOfMemory: it does not fit the device.
        """
        if dtype is None:
            cpu = device == "cpu"
            dtype = this_machine().cpu_dtype if cpu else cuda_dtype(device)
        loaded = load_classifier(config, device=device, dtype=dtype, offline=offline)
        return cls(
            loaded.model,
            read_pair_tokenizer(loaded.path, config),
            config,
            device=device,
            segments=loaded.segments,
            dtype=loaded.dtype,
            threads=threads or this_machine().cores,
        )

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return token counts of pairs after truncation, special tokens counted.

        Until the next call these pairs' token ids are held for `score`.
        """
        encodings = self._tokenizer.encode_batch(list(pairs))
        self._counted = dict(zip(pairs, encodings, strict=True))
        return [len(encoding) for encoding in encodings]

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """Return the positions computed for pairs of these lengths in one call."""
        if isinstance(self._model, BertPairs):
            return sum(map(self._model.padded_length, lengths))
        if self._together:
            return self._padded_length(max(lengths, default=0)) * len(lengths)
        return sum(lengths)

    def pass_probe(self) -> PassProbe | None:
        """Return what measures a pass over pairs as long as asked; None on a CPU."""
        if self.device == "cpu":
            return None
        from .device_probe import CudaPassProbe

        return CudaPassProbe(lambda texts: self.score(pairs_like(texts)), self.device)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return float32 [pairs]: logits.

        Raises:
            DeviceOutOfMemory: the batch does not fit the device.
            ModelError: a score is not finite.
        """
        encodings = self._encode(pairs)
        with out_of_memory_named(self.name, self.device):
            if self._together:
                return self._at_once(encodings)
            return self._one_by_one(encodings)

    def _padded_length(self, tokens: int) -> int:
        return padded_length(tokens, self._window)

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> list[Encoding]:
        counted = self._counted  # another thread may count pairs meanwhile
        new = [pair for pair in pairs if pair not in counted]
        if new:
            found = self._tokenizer.encode_batch(new)
            counted = counted | dict(zip(new, found, strict=True))
        return [counted[pair] for pair in pairs]

    def _one_by_one(self, encodings: Sequence[Encoding]) -> Float32Array:
        """Return float32 [pairs]; the longest go first, so that threads end together.

        torch lets go of Python's lock while it computes.

        Raises:
            ModelError: a score is not finite.
        """
        order = sorted(range(len(encodings)), key=lambda i: -len(encodings[i]))
        scores = np.empty(len(encodings), dtype=np.float32)
        longest_first = (encodings[i] for i in order)
        with one_thread():
            if self.device != "cpu" or min(self.threads, len(encodings)) < 2:
                scores[order] = list(map(self._logit, longest_first))
            else:
                with ThreadPoolExecutor(
                    self.threads, initializer=torch.set_num_threads, initargs=(1,)
                ) as pool:
                    scores[order] = list(pool.map(self._logit, longest_first))
        check_finite(torch.from_numpy(scores), self.name, self.dtype)
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
            logits = self._model(**self._inputs(encodings)).logits[:, 0].float()
            check_finite(logits, self.name, self.dtype)
        scores: Float32Array = logits.cpu().numpy()
        return scores

    def _inputs(self, encodings: Sequence[Encoding]) -> dict[str, torch.Tensor]:
        """Return int64 tensors [pairs, longest], padded on the right."""
        longest = max(len(encoding) for encoding in encodings)
        if self._together:
            longest = self._padded_length(longest)
        shape = (len(encodings), longest)
        ids = np.full(shape, padding_id(self._model), dtype=np.int64)
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
            name: torch.from_numpy(array).to(self._model.device)
            for name, array in arrays.items()
        }


def pairs_like(texts: Sequence[UInt32Array]) -> list[tuple[str, str]]:
    """Return made-up pairs, each at least as long as its text before it is cut."""
    return [("a", "a " * len(text)) for text in texts]


def _finds_ends(model: Any) -> bool:
    """Say whether a model finds the end of each pair in a padded batch.

    Encoders go by the mask; a decoder by the padding token that its settings name.
    """
    decoder = hasattr(model, "score")
    return not decoder or padding_id(model) == model.config.pad_token_id
