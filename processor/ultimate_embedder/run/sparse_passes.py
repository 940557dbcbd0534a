"""The sparse vectors of one collection, one model after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import PipelineConfig, SparseModelConfig
from ..encoders.splade_source import SpladeSource, find_splade
from ..intake.measure import MeasuredCollection
from ..stages.dense_records import DenseBlock
from ..stages.sparse import SparseResult, SparseVectorGenerator
from ..telemetry.events import Emit
from .beside import Beside
from .leased import DeviceLoans
from .parts import Parts

if TYPE_CHECKING:
    from ..encoders.splade import SpladeEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsePasses:
    """Makes the vectors of each sparse model; one with weights holds its device."""

    config: PipelineConfig
    parts: Parts
    loans: DeviceLoans
    work_dir: Path
    emit: Emit
    run_id: str
    beside: Beside

    def run(
        self, collection: MeasuredCollection, dense: tuple[DenseBlock, ...]
    ) -> dict[str, SparseResult]:
        """Return the results by model key; `dense` holds attention, where it was made.

        Raises:
            ModelError: a model cannot be used.
            DeviceOutOfMemory: a text alone does not fit a GPU.
        """
        return {
            model.name: self._generate(model, collection, dense)
            for model in self.config.active_sparse
        }

    @contextmanager
    def _opened(
        self, model: SparseModelConfig, source: SpladeSource
    ) -> Iterator[SpladeEncoder]:
        """Hold the device of a SPLADE model, and the model on it.

        Raises:
            DeviceBusy: another run holds the device.
            DeviceOutOfMemory: the model does not fit the device.
        """
        device = source.device
        with self.loans.hold(model.name, (device,), "sparse", in_process=True) as lease:
            room = self.beside.for_sparse(model)
            use = self.loans.use(lease, model.name, device, room)
            with closing(self.parts.load_splade(source, use)) as encoder:
                encoder.calibrate()
                yield encoder

    def _source(self, model: SparseModelConfig) -> SpladeSource:
        return find_splade(
            model,
            device=self.parts.sparse_device,
            dtype=self.beside.sparse_dtype if self.beside.sparse_room else None,
            offline=self.config.offline,
            long_texts=self.config.long_texts,
        )

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
            return generator.generate(
                collection.store,
                None,
                None,
                splade=self._source(model),
                opens=partial(self._opened, model),
            )
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
