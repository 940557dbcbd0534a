"""The dense passes of one collection: the roster in order, one model after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import ModelConfig, PipelineConfig
from ..errors import ModelError, ModelNotAvailable
from ..intake.measure import MeasuredCollection, MeasuredModel
from ..ledger import Ledger
from ..models.catalogue import dense_model
from ..stages.dense import DenseStage
from ..stages.dense_records import DenseBlock, DenseTask
from ..telemetry.events import Emit, Event, StageStarted
from ..workers.jobs import Output
from .leased import DeviceLoans
from .memory import budget_of, require_fit, room_on
from .parts import Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class DensePasses:
    """Runs each model over all its batches, for vectors, for attention or for both.

    `name` is the collection's; `warn` takes a sentence for log and manifest.
    """

    name: str
    config: PipelineConfig
    parts: Parts
    loans: DeviceLoans
    work_dir: Path
    emit: Emit
    warn: Callable[[str], None]

    def models(self) -> list[ModelConfig]:
        """Return the roster, then models wanted for their attention alone.

        One of the latter that is not to be had is left out with a warning: the sparse
        stage then takes its second choice, or says that it has none.
        """
        found = list(self.config.dense)
        names = {model.name for model in found}
        for key, sparse in self._attention_models().items():
            if key in names:
                continue
            model = dense_model(key)
            try:
                self.parts.models.locate(model)
                found.append(model)
            except ModelNotAvailable as error:
                self.warn(f"{sparse} has no attention to use: {error}")
        return found

    def run(self, collection: MeasuredCollection) -> tuple[DenseBlock, ...]:
        """Do what the ledger lacks, and return every pass that ended.

        Raises:
            ModelError: a model cannot be used, and may not be skipped.
            DeviceOutOfMemory: a text alone does not fit a GPU.
            RunStopped: the run ended early; the same command resumes it.
        """
        require_fit(collection, self._dtype, self._room())
        blocks = []
        passes = len(collection.models)
        with Ledger(self.work_dir / "ledger.sqlite") as ledger:
            for turn, model in enumerate(collection.models, start=1):
                emit = self._numbered((turn, passes)) if passes > 1 else self.emit
                devices = self._devices(model.config)
                opened = self.loans.executor(self.parts.open_executor, devices)
                stage = DenseStage(self.work_dir, ledger, opened, emit)
                task = self._task(collection, model)
                try:
                    blocks.append(
                        stage.run(
                            task,
                            model.tokens,
                            model.pieces,
                            model.plan,
                            collection.first_rows,
                        )
                    )
                except ModelError as error:
                    if not self._may_skip(model.config):
                        raise
                    self.warn(f"Model {model.config.name} was skipped: {error}")
        return tuple(blocks)

    def _task(self, collection: MeasuredCollection, model: MeasuredModel) -> DenseTask:
        config, store = model.config, collection.store
        outputs: list[Output] = ["dense"] if config in self.config.dense else []
        if config.name in self._attention_models():
            outputs.append("attention")
        dtype = self._dtype(config)
        return DenseTask(
            collection=self.name,
            model=config,
            location=model.location,
            tokens_dir=model.tokens_dir,
            text_hashes=store.text_hashes,
            tokenizer_fingerprint=model.tokenizer.fingerprint + self.config.long_texts,
            dtype=dtype,
            device=self._devices(config)[0],
            outputs=tuple(outputs),
            budget_tokens=budget_of(model, dtype, self._room()),
            chunk_id=lambda row: store.chunk(row).chunk_id,
        )

    def _attention_models(self) -> dict[str, str]:
        """Return attention sparse models by the dense model whose pass they share."""
        return {
            sparse.dense_key: sparse.name
            for sparse in self.config.active_sparse
            if sparse.kind == "attention" and sparse.dense_key
        }

    def _numbered(self, turn: tuple[int, int]) -> Emit:
        """Return an emit that says which of how many passes has started."""

        def emit(event: Event) -> None:
            if isinstance(event, StageStarted):
                event = replace(event, turn=turn)
            self.emit(event)

        return emit

    def _may_skip(self, model: ModelConfig) -> bool:
        return self.config.skip_failed_models and model != self.config.primary

    def _dtype(self, model: ModelConfig) -> str:
        """Return the precision of a pass; a graph brings its own."""
        if model.backend == "onnx":
            return "float32"
        return self.parts.models.dtype(self.parts.device)

    def _devices(self, model: ModelConfig) -> tuple[str, ...]:
        """Return the devices of a pass; a graph runs on the CPU alone."""
        if model.backend == "onnx":
            return ("cpu",)
        return self.parts.devices or (self.parts.device,)

    def _room(self) -> int | None:
        devices = self.parts.devices or (self.parts.device,)
        return room_on(self.config.gpu, devices, self.parts.leases)
