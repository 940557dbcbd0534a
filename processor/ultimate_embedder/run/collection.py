"""One collection from chunk files to a published bundle, stage after stage.

Each step's result is a value that the next one takes; nothing is shared otherwise.
The stages that are switched off are not called.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import PipelineConfig
from ..export.manifest import Manifest
from ..export.manifest_sections import TelemetrySection, TimelinePass
from ..export.runtime import ExportRuntime
from ..intake.chunks import CollectionFolder, told_too_deep
from ..intake.measure import MeasuredCollection, measure_collection
from ..records import Float32Array
from ..stages.dense_records import DenseBlock
from ..stages.sparse import SparseResult
from ..telemetry.events import Emit, Event, StageSkipped, Warned, WorkRedone
from ..telemetry.summary import MetricsSummary
from ..telemetry.timeline import Timeline
from .beside import Beside, require_fit_beside
from .dense_passes import DensePasses
from .leased import DeviceLoans
from .manifest import CollectionResult, build_manifest
from .memory import planning_cap
from .parts import CollectionOutcome, Parts
from .reranking import Reranking
from .retrieval import RetrievalOutcome, RetrievalRun
from .room import require_room_for
from .sparse_passes import SparsePasses
from .up_to_date import Outdated, run_facts, up_to_date


@dataclass(frozen=True, slots=True)
class _Made:
    """What the passes made of a collection; `facts` name what it came from."""

    collection: MeasuredCollection
    facts: dict[str, str]
    dense: tuple[DenseBlock, ...]
    sparse: dict[str, SparseResult]

    @property
    def vectors(self) -> dict[str, Float32Array]:
        """Dense vectors by model key, float32 [rows, width]."""
        return {
            block.model.name: block.vectors
            for block in self.dense
            if block.vectors is not None
        }


class CollectionRun:
    """Makes one bundle. `work_dir` keeps what later runs may use again."""

    def __init__(
        self,
        folder: CollectionFolder,
        work_dir: Path,
        config: PipelineConfig,
        parts: Parts,
        emit: Emit,
        run_id: str,
        redact_key: bytes | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """`warnings` were given before; they stand in the manifest with its own."""
        self._folder = folder
        self._work_dir = work_dir
        self._config = config
        self._parts = parts
        self._summary = MetricsSummary(folder.name)
        self._timeline = Timeline(folder.name)
        self._emit_outside = emit
        self._run_id = run_id
        self._redact_key = redact_key
        self._warnings = list(warnings)
        self._loans = DeviceLoans(parts.leases, self._emit, parts.now)
        self._beside = Beside.of(
            config,
            parts.models,
            parts.leases,
            sparse_device=parts.sparse_device,
            rerank_device=parts.device,
        )
        self._dense = DensePasses(
            name=folder.name,
            config=config,
            parts=parts,
            loans=self._loans,
            work_dir=work_dir,
            emit=self._emit,
            warn=self._warn,
        )

    def run(self, *, leave_up_to_date: bool = False) -> CollectionOutcome:
        """Do every stage and publish; or find the bundle that stands there good.

        Raises:
            InputError: there is no usable chunk.
            ModelError: a model cannot be used.
            DeviceOutOfMemory: a text alone does not fit a GPU.
            OutputError: there is not enough room on the disk.
            RunStopped: the run ended early; the same command resumes it.
        """
        collection = self._measure()
        facts = self._facts(collection)
        if leave_up_to_date and (found := self._up_to_date(facts)):
            return found
        require_room_for(
            self._config,
            self._work_dir,
            chunk_bytes=self._folder.total_bytes,
            chunks=len(collection.store),
        )
        require_fit_beside(self._config, self._beside, collection.store)
        dense = self._dense.run(collection)
        sparse = self._sparse(collection, dense)
        made = _Made(collection, facts, dense, sparse)
        bundle = self._export(made)
        return CollectionOutcome(
            name=self._folder.name,
            bundle=bundle,
            manifest=Manifest.read(bundle),
            embeddings=made.vectors,
            sparse=made.sparse,
        )

    def _export(self, made: _Made) -> Path:
        """Write the bundle's files, retrieve over them, and publish them."""
        config = self._config
        with ExportRuntime(
            config.output_dir,
            self._folder.name,
            exports=config.exports,
            jsonl_layout=config.jsonl_layout,
            baseline=config.baseline,
            emit=self._emit,
        ) as export:
            seconds = _write_vectors(export, made)
            retrieval = self._retrieve(made, export.staging)
            if retrieval.reranked is not None:
                export.write_rerank(retrieval.reranked.records)
            for message in retrieval.warnings:
                self._warn(message)
            return export.publish(self._manifest(made, retrieval, seconds))

    def _manifest(
        self, made: _Made, retrieval: RetrievalOutcome, export_seconds: float
    ) -> Manifest:
        result = CollectionResult(
            collection=made.collection,
            dense=made.dense,
            sparse=made.sparse,
            retrieval=retrieval,
            export_seconds=export_seconds,
            loans=self._loans,
            warnings=tuple(self._warnings),
        )
        return build_manifest(
            result,
            self._config,
            run_id=self._run_id,
            run_facts=made.facts,
            generated_at=self._parts.now(),
            telemetry=self._telemetry(),
        )

    def _facts(self, collection: MeasuredCollection) -> dict[str, str]:
        device = self._parts.device
        return run_facts(
            self._config,
            collection,
            device=device,
            dtype=self._parts.models.dtype(device),
            redact_key=self._redact_key,
            sparse_device=self._parts.sparse_device,
            sparse_dtype=self._beside.sparse_dtype,
        )

    def _up_to_date(self, facts: dict[str, str]) -> CollectionOutcome | None:
        """Return the bundle that stands there, if a run would make the same."""
        config = self._config
        bundle = config.output_dir / self._folder.name
        if not bundle.exists():
            return None
        found: Manifest | Outdated | None
        if not config.resume:
            found = Outdated("--fresh asks for it")
        elif config.baseline:
            found = Outdated("--baseline asks for a comparison")
        else:
            dense = [model.name for model in config.dense]
            found = up_to_date(bundle, facts, dense)
        if found is None:
            return None
        if isinstance(found, Outdated):
            self._emit(
                WorkRedone(
                    collection=self._folder.name,
                    reason=found.reason,
                    damaged=found.damaged,
                )
            )
            return None
        return CollectionOutcome(
            name=self._folder.name, bundle=bundle, manifest=found, up_to_date=True
        )

    def _telemetry(self) -> TelemetrySection:
        return TelemetrySection(
            spans=tuple(
                {"name": name, "count": count}
                for name, count in self._summary.spans.items()
            ),
            metrics=self._summary.metrics,
            timeline=tuple(
                TimelinePass(
                    stage=stage,
                    model=model,
                    started=round(found.started, 3),
                    width=found.width,
                    items=tuple(found.items),
                    tokens=tuple(found.tokens),
                )
                for (stage, model), found in self._timeline.passes.items()
                if found.items
            ),
        )

    def _emit(self, event: Event) -> None:
        self._summary(event)
        self._timeline(event)
        self._emit_outside(event)

    def _measure(self) -> MeasuredCollection:
        cap = planning_cap(self._config.gpu, self._parts.device)
        found = measure_collection(
            self._folder,
            self._dense.models(),
            self._parts.models,
            self._work_dir,
            self._emit,
            long_texts=self._config.long_texts,
            rows_a_batch=self._config.gpu.rows_a_batch(on_gpu=cap is not None),
            gpu_memory_cap_bytes=cap,
        )
        if told := told_too_deep(self._folder, found.store.chunk(0)):
            self._warn(told)
        for model in found.models:
            lost = int(model.tokens.truncated.sum())
            if lost and model.config in self._config.dense:
                rows = int((model.tokens.truncated > 0).sum())
                self._warn(
                    f"{rows} of {len(found.store)} chunks are longer than the window "
                    f"of {model.config.name} ({model.config.max_tokens} tokens): "
                    f"{lost} tokens are not in their vectors. Use --long-texts "
                    "windows, or chunk with a smaller --max-tokens, to keep them."
                )
        aside = found.store.conservation
        if aside.quarantined:
            self._warn(
                f"Set aside, chunks: {aside.chunks_aside}, files: {aside.files_aside}. "
                "The manifest lists what and why under conservation.quarantined."
            )
        return found

    def _sparse(
        self, collection: MeasuredCollection, dense: tuple[DenseBlock, ...]
    ) -> dict[str, SparseResult]:
        if not self._config.enable_sparse:
            self._skipped("sparse", "enable_sparse")
        return SparsePasses(
            config=self._config,
            parts=self._parts,
            loans=self._loans,
            work_dir=self._work_dir,
            emit=self._emit,
            run_id=self._run_id,
            beside=self._beside,
        ).run(collection, dense)

    def _retrieve(self, made: _Made, staging: Path) -> RetrievalOutcome:
        if not self._config.enable_rerank:
            self._skipped("rerank", "enable_rerank")
        with Reranking(
            self._config,
            self._parts,
            self._loans,
            self._beside,
            self._emit,
            self._work_dir / "rerank",
        ) as reranking:
            run = RetrievalRun(
                config=self._config,
                manager=self._parts.models,
                reranking=reranking,
                emit=self._emit,
                run_id=self._run_id,
                collection=made.collection,
                vectors=made.vectors,
                sparse=made.sparse,
                staging=staging,
                fingerprints={
                    block.model.name: block.attention_fingerprint
                    for block in made.dense
                },
                kept=self._work_dir / "probes",
                redact_key=self._redact_key,
            )
            return run.run()

    def _skipped(self, stage: str, toggle: str) -> None:
        layers = {entry.key: entry.layer for entry in self._config.provenance}
        self._emit(
            StageSkipped(
                stage="sparse" if stage == "sparse" else "rerank",
                collection=self._folder.name,
                reason="disabled",
                layer=layers.get(toggle),
            )
        )

    def _warn(self, message: str) -> None:
        self._warnings.append(message)
        self._emit(Warned(message=message, collection=self._folder.name))


def _write_vectors(export: ExportRuntime, made: _Made) -> float:
    """Write ids, vectors and points; return the seconds that it took."""
    started = time.perf_counter()
    matrices = {key: result.matrix for key, result in made.sparse.items()}
    averages = {
        key: result.run.statistics.get("average_length")
        for key, result in made.sparse.items()
    }
    export.write_ids(made.collection.store)
    for key, rows in made.vectors.items():
        export.write_dense(key, rows)
    export.write_sparse(matrices, averages)
    export.write_points(made.collection.store, made.vectors, matrices)
    return time.perf_counter() - started
