"""The sparse vectors of one collection, one model after another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import PipelineConfig, SparseModelConfig
from ..encoders.splade_source import find_splade
from ..intake.measure import MeasuredCollection
from ..stages.dense_records import DenseBlock
from ..stages.sparse import SparseResult, SparseVectorGenerator
from ..telemetry.events import Emit
from .leased import DeviceLoans
from .parts import Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsePasses:
    """Makes the vectors of each sparse model; one with weights holds its device."""

    config: PipelineConfig
    parts: Parts
    loans: DeviceLoans
    work_dir: Path
    emit: Emit
    run_id: str

    def run(
        self, collection: MeasuredCollection, dense: tuple[DenseBlock, ...]
    ) -> dict[str, SparseResult]:
        """Return the results by model key; `dense` holds attention, where it was made.

        Raises:
            ModelError: a model cannot be used.
            DeviceOutOfMemory: a text alone does not fit a GPU.
        """
        found = {}
        for model in self.config.active_sparse:
            own_weights = model.kind == "splade"
            device = self.parts.sparse_device if own_weights else "cpu"
            with self.loans.hold(model.name, (device,), "sparse", in_process=True):
                found[model.name] = self._generate(model, collection, dense)
        return found

    def _generate(
        self,
        model: SparseModelConfig,
        collection: MeasuredCollection,
        dense: tuple[DenseBlock, ...],
    ) -> SparseResult:
        generator = SparseVectorGenerator(
            model,
            bm25_profile=self.config.bm25_profile,
            work_dir=self.work_dir / "sparse",
            emit=self.emit,
            run_id=self.run_id,
        )
        if model.kind == "splade":
            source = find_splade(
                model,
                device=self.parts.sparse_device,
                offline=self.config.offline,
                long_texts=self.config.long_texts,
            )
            return generator.generate(collection.store, None, None, splade=source)
        block = next((b for b in dense if b.model.name == model.dense_key), None)
        if block is None or block.attention is None:
            return generator.generate(
                collection.store,
                None,
                None,
                attention_unavailable=f"the pass of {model.dense_key} did not run",
            )
        return generator.generate(
            collection.store,
            block.attention,
            collection.model(block.model.name).tokenizer.backend,
            attention_fingerprint=block.attention_fingerprint,
        )
