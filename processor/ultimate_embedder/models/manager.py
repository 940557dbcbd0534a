"""Load a model, use it, gone: `with models.resident(config) as encoder`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from ..config import ModelConfig
from ..encoders.protocols import AttentionEncoder, Tokenizer
from ..encoders.sources import ModelLocation, locate_model
from ..encoders.tokenizer import HubTokenizer
from ..errors import UsageError
from ..hardware import this_machine
from .catalogue import KAGGLE_OPTIMIZED_MODELS
from .facts import check_prompts

_BACKENDS = ("pytorch", "onnx")


class ModelSource(Protocol):
    """What the pipeline asks of whoever has the models."""

    def locate(self, config: ModelConfig) -> ModelLocation:
        """Return where the model's files are."""

    def tokenizer(self, config: ModelConfig) -> Tokenizer:
        """Return the model's tokenizer with its window and prompts."""

    def dtype(self, device: str) -> str:
        """Return the precision to compute in on `device`."""

    def resident(self, config: ModelConfig) -> AbstractContextManager[AttentionEncoder]:
        """Keep the model in memory for the length of the block."""


class ModelManager:
    """Finds models and keeps one in memory for as long as a `with` block lasts."""

    def __init__(self, *, offline: bool = False) -> None:
        self.offline = offline
        self._located: dict[ModelConfig, ModelLocation] = {}

    def locate(self, config: ModelConfig) -> ModelLocation:
        """Return where the model's files are.

        Raises:
            ModelNotAvailable: they are not here and cannot be fetched.
            ModelMismatch: they state other prompts than the registry.
            UsageError: no backend here runs this model.
        """
        if config.backend not in _BACKENDS:
            raise UsageError(
                f"Model {config.name} needs the backend '{config.backend}'; this "
                f"version has {', '.join(_BACKENDS)}.",
                cure="Choose another model.",
            )
        if config not in self._located:
            self._located[config] = locate_model(
                config.hf_model_id,
                revision=config.revision,
                package=config.package,
                offline=self.offline,
                weights_sha256=config.weights_sha256,
                backend=config.backend,
                trust_remote_code=config.trust_remote_code,
            )
            known = KAGGLE_OPTIMIZED_MODELS.get(config.name)
            if known is not None and known.hf_model_id == config.hf_model_id:
                check_prompts(self._located[config].path, config)
        return self._located[config]

    def tokenizer(self, config: ModelConfig) -> HubTokenizer:
        """Return the model's tokenizer with its window and prompts.

        Raises:
            ModelMismatch: a prompt leaves the window no room for text.
        """
        tokenizer = HubTokenizer(
            self.locate(config).path,
            config.max_tokens,
            query_prefix=config.query_prefix,
            document_prefix=config.document_prefix,
        )
        tokenizer.frame("document")
        tokenizer.frame("query")
        return tokenizer

    def dtype(self, device: str) -> str:
        """Return the fastest precision that `device` computes natively."""
        if device == "cpu":
            return this_machine().cpu_dtype
        from ..encoders.precision import cuda_dtype

        return cuda_dtype(device)

    @contextmanager
    def resident(
        self, config: ModelConfig, *, device: str = "cpu", dtype: str | None = None
    ) -> Iterator[AttentionEncoder]:
        """Keep the model on `device` for the length of the block.

        Its weights are put together and checked on the CPU, then moved, and let go of
        at the end even if something still refers to the encoder. On the CPU a pass is
        computed with one thread, see `one_thread`; cores may share out the texts.

        Raises:
            MissingExtra: its backend is not installed.
            ModelError: it cannot be loaded or is not what the registry says.
        """
        from ..encoders.dense import open_dense
        from ..encoders.dense_torch import one_thread, release_memory

        location = self.locate(config)
        with one_thread() if device == "cpu" else nullcontext():
            encoder = open_dense(
                location.path,
                config,
                device=device,
                dtype=dtype or self.dtype(device),
            )
            if device == "cpu" and hasattr(encoder, "threads"):
                encoder.threads = this_machine().cores
            try:
                yield encoder
            finally:
                encoder.close()
                gc.collect()
                release_memory(device)
