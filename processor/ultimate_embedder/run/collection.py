"""One collection from chunk files to a published bundle, stage after stage.

Each step's result is a value that the next one takes; nothing is shared otherwise.
The stages that are switched off are not called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ..catalogue import dense_model
from ..config import ModelConfig, PipelineConfig, RerankingConfig, SparseModelConfig
from ..encoders.protocols import PairScorer
from ..encoders.splade_source import find_splade
from ..errors import ModelError, ModelNotAvailable
from ..export.manifest import Manifest
from ..export.manifest_sections import TelemetrySection, TimelinePass
from ..export.runtime import ExportRuntime
from ..gpu_lease import Leases
from ..intake.chunks import CollectionFolder
from ..intake.measure import MeasuredCollection, measure_collection
from ..ledger import Ledger
from ..model_manager import ModelSource
from ..records import Float32Array
from ..stages.dense import DenseStage, OpenExecutor
from ..stages.dense_records import DenseBlock, DenseTask
from ..stages.sparse import SparseResult, SparseVectorGenerator
from ..telemetry.events import Emit, Event, StageSkipped, StageStarted, Warned
from ..telemetry.summary import MetricsSummary
from ..telemetry.timeline import Timeline
from ..workers.jobs import Output
from .leased import DeviceLoans
from .manifest import CollectionResult, build_manifest
from .memory import budget_of, planning_cap, require_fit, room_on
from .retrieval import LoadScorer, RetrievalOutcome, RetrievalRun
from .up_to_date import run_fingerprint, up_to_date


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run needs from outside: models, workers and a clock.

    `device` is the one that rerank uses, `devices` are those of a dense pass where they
    are more, `sparse_device` is that of sparse models with weights of their own;
    `leases` takes the GPUs among them, None on the CPU.
    """

    models: ModelSource
    open_executor: OpenExecutor
    load_scorer: LoadScorer
    device: str
    now: Callable[[], datetime]
    devices: tuple[str, ...] = ()
    sparse_device: str = "cpu"
    leases: Leases | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOutcome:
    """What became of one collection; `embeddings` and `sparse` map its working files.

    `bundle` and `manifest` are there unless `error` is. One that was `up_to_date` was
    left alone: it has no working files.
    """

    name: str
    bundle: Path | None = None
    manifest: Manifest | None = None
    embeddings: dict[str, Float32Array] | None = None
    sparse: dict[str, SparseResult] | None = None
    error: Exception | None = None
    up_to_date: bool = False


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

    def run(self, *, leave_up_to_date: bool = False) -> CollectionOutcome:
        """Do every stage and publish; or find the bundle that stands there good.

        Raises:
            InputError: there is no usable chunk.
            ModelError: a model cannot be used.
            DeviceOutOfMemory: a text alone does not fit a GPU.
            RunStopped: the run ended early; the same command resumes it.
        """
        collection = self._measure()
        fingerprint = self._fingerprint(collection)
        if leave_up_to_date and (found := self._up_to_date(fingerprint)):
            return found
        require_fit(collection, self._dtype, self._room())
        dense = self._dense(collection)
        vectors = {
            block.model.name: block.vectors
            for block in dense
            if block.vectors is not None
        }
        sparse = self._sparse(collection, dense)
        matrices = {key: result.matrix for key, result in sparse.items()}
        config = self._config
        with ExportRuntime(
            config.output_dir,
            self._folder.name,
            exports=config.exports,
            jsonl_layout=config.jsonl_layout,
            baseline=config.baseline,
            emit=self._emit,
        ) as export:
            started = time.perf_counter()
            export.write_ids(collection.store)
            for key, rows in vectors.items():
                export.write_dense(key, rows)
            export.write_sparse(
                matrices,
                {
                    key: result.run.statistics.get("average_length")
                    for key, result in sparse.items()
                },
            )
            export.write_points(collection.store, vectors, matrices)
            seconds = time.perf_counter() - started
            retrieval = self._retrieve(collection, vectors, sparse, export.staging)
            if retrieval.reranked is not None:
                export.write_rerank(retrieval.reranked.records)
            for message in retrieval.warnings:
                self._warn(message)
            manifest = build_manifest(
                CollectionResult(
                    collection=collection,
                    dense=dense,
                    sparse=sparse,
                    retrieval=retrieval,
                    export_seconds=seconds,
                    loans=self._loans,
                    warnings=tuple(self._warnings),
                ),
                config,
                run_id=self._run_id,
                run_fingerprint=fingerprint,
                generated_at=self._parts.now(),
                telemetry=self._telemetry(),
            )
            bundle = export.publish(manifest)
        return CollectionOutcome(
            name=self._folder.name,
            bundle=bundle,
            manifest=Manifest.read(bundle),
            embeddings=vectors,
            sparse=sparse,
        )

    def _room(self) -> int | None:
        parts = self._parts
        devices = parts.devices or (parts.device,)
        return room_on(self._config.gpu, devices, parts.leases)

    def _fingerprint(self, collection: MeasuredCollection) -> str:
        device = self._parts.device
        return run_fingerprint(
            self._config,
            collection,
            device=device,
            dtype=self._parts.models.dtype(device),
            redact_key=self._redact_key,
        )

    def _up_to_date(self, fingerprint: str) -> CollectionOutcome | None:
        """Return the bundle that stands there, if a run would make the same."""
        config = self._config
        if config.baseline or not config.resume:
            return None
        bundle = config.output_dir / self._folder.name
        manifest = up_to_date(bundle, fingerprint)
        if manifest is None:
            return None
        return CollectionOutcome(
            name=self._folder.name, bundle=bundle, manifest=manifest, up_to_date=True
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
        models = [*self._config.dense, *self._attention_only()]
        found = measure_collection(
            self._folder,
            models,
            self._parts.models,
            self._work_dir,
            self._emit,
            long_texts=self._config.long_texts,
            rows_a_batch=self._config.gpu.base_batch_size,
            gpu_memory_cap_bytes=planning_cap(self._config.gpu, self._parts.device),
        )
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
        aside = len(found.store.conservation.quarantined)
        if aside:
            self._warn(
                f"Set aside: {aside}. The manifest lists what and why under "
                "conservation.quarantined."
            )
        return found

    def _attention_models(self) -> dict[str, SparseModelConfig]:
        """Return attention sparse models by the dense model whose pass they share."""
        return {
            sparse.dense_key: sparse
            for sparse in self._config.active_sparse
            if sparse.kind == "attention" and sparse.dense_key
        }

    def _attention_only(self) -> list[ModelConfig]:
        """Return models wanted for their attention, not for their vectors.

        One that is not to be had is left out with a warning: the sparse stage then
        takes its second choice, or says that it has none.
        """
        names = {model.name for model in self._config.dense}
        found = []
        for key, sparse in self._attention_models().items():
            if key in names:
                continue
            model = dense_model(key)
            try:
                self._parts.models.locate(model)
                found.append(model)
            except ModelNotAvailable as error:
                self._warn(f"{sparse.name} has no attention to use: {error}")
        return found

    def _dense(self, collection: MeasuredCollection) -> tuple[DenseBlock, ...]:
        """Run the roster in order, each model over all its batches."""
        blocks = []
        parts = self._parts
        passes = len(collection.models)
        opened = self._loans.executor(
            parts.open_executor, parts.devices or (parts.device,)
        )
        with Ledger(self._work_dir / "ledger.sqlite") as ledger:
            for turn, model in enumerate(collection.models, start=1):
                emit = self._numbered((turn, passes)) if passes > 1 else self._emit
                stage = DenseStage(self._work_dir, ledger, opened, emit)
                try:
                    blocks.append(self._pass(stage, collection, model.config))
                except ModelError as error:
                    if not self._may_skip(model.config):
                        raise
                    self._warn(f"Model {model.config.name} was skipped: {error}")
        return tuple(blocks)

    def _numbered(self, turn: tuple[int, int]) -> Emit:
        """Return an emit that says which of how many passes has started."""

        def emit(event: Event) -> None:
            if isinstance(event, StageStarted):
                event = replace(event, turn=turn)
            self._emit(event)

        return emit

    def _may_skip(self, model: ModelConfig) -> bool:
        return self._config.skip_failed_models and model != self._config.primary

    def _dtype(self, model: ModelConfig) -> str:
        """Return the precision of a pass; a graph brings its own."""
        if model.backend == "onnx":
            return "float32"
        return self._parts.models.dtype(self._parts.device)

    def _pass(
        self, stage: DenseStage, collection: MeasuredCollection, model: ModelConfig
    ) -> DenseBlock:
        measured = collection.model(model.name)
        outputs: list[Output] = ["dense"] if model in self._config.dense else []
        if model.name in self._attention_models():
            outputs.append("attention")
        device = self._parts.device
        task = DenseTask(
            collection=self._folder.name,
            model=model,
            location=measured.location,
            tokens_dir=measured.tokens_dir,
            text_hashes=collection.store.text_hashes,
            tokenizer_fingerprint=measured.tokenizer.fingerprint
            + self._config.long_texts,
            dtype=self._dtype(model),
            device=device,
            outputs=tuple(outputs),
            budget_tokens=budget_of(measured, self._dtype(model), self._room()),
            chunk_id=lambda row: collection.store.chunk(row).chunk_id,
        )
        return stage.run(
            task,
            measured.tokens,
            measured.pieces,
            measured.plan,
            collection.first_rows,
        )

    def _sparse(
        self, collection: MeasuredCollection, dense: tuple[DenseBlock, ...]
    ) -> dict[str, SparseResult]:
        if not self._config.enable_sparse:
            self._skipped("sparse", "enable_sparse")
        found = {}
        for model in self._config.active_sparse:
            own_weights = model.kind == "splade"
            device = self._parts.sparse_device if own_weights else "cpu"
            with self._loans.hold(model.name, (device,), "sparse", in_process=True):
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
            bm25_profile=self._config.bm25_profile,
            work_dir=self._work_dir / "sparse",
            emit=self._emit,
            run_id=self._run_id,
        )
        if model.kind == "splade":
            source = find_splade(
                model,
                device=self._parts.sparse_device,
                offline=self._config.offline,
                long_texts=self._config.long_texts,
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

    def _retrieve(
        self,
        collection: MeasuredCollection,
        vectors: dict[str, Float32Array],
        sparse: dict[str, SparseResult],
        staging: Path,
    ) -> RetrievalOutcome:
        if not self._config.enable_rerank:
            self._skipped("rerank", "enable_rerank")
        with ExitStack() as held:

            def load_scorer(config: RerankingConfig) -> PairScorer:
                held.close()  # a second choice takes the place of the first
                held.enter_context(
                    self._loans.hold(
                        config.name, (self._parts.device,), "rerank", in_process=True
                    )
                )
                return self._parts.load_scorer(config)

            run = RetrievalRun(
                config=self._config,
                manager=self._parts.models,
                load_scorer=load_scorer,
                emit=self._emit,
                run_id=self._run_id,
                collection=collection,
                vectors=vectors,
                sparse=sparse,
                staging=staging,
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
