"""The loop a visitor is shown: collections, one after the other.

A collection that fails is reported and the next one goes on; a stop (signal, disk
full, device) ends the run at once with nothing lost.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .config import (
    KaggleGPUConfig,
    PipelineConfig,
    RerankingConfig,
)
from .devices import resolve_devices, resolve_one, unusable_cards
from .disk_space import require_writable
from .encoders.protocols import PairScorer
from .errors import (
    EmbedderError,
    InputError,
    OutOfMemory,
    RunStopped,
    UsageError,
)
from .export.faiss_index import require_faiss
from .export.layout import BundleNames
from .export.output_errors import output_error
from .export.publish import recover, require_replaceable
from .gpu_lease import Leases, is_leased
from .intake.chunks import (
    CollectionFolder,
    find_collections,
    is_collection,
    told_too_deep,
)
from .intake.measure import measure_collection
from .intake.queries import read_queries
from .models.manager import ModelManager
from .run.beside import Beside, plan_beside
from .run.collection import CollectionRun
from .run.kept_work import WORK_FOLDER
from .run.memory import planning_cap
from .run.output_lock import only_run_in
from .run.parts import CollectionOutcome, LoadScorer, Parts
from .run.plan import FailedPlan, PlanBudget, RunPlan, plan_collection
from .run.room import require_room
from .run.usable_models import usable_models
from .telemetry.events import (
    CollectionFinished,
    CollectionStarted,
    Emit,
    RunFinished,
    RunStarted,
    Warned,
)
from .workers.opening import worker_processes

_REDACT_KEY = ".redact.key"  # beside the collections' folders: no name of one
_REDACT_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What became of every collection; `exit_code` as the command line returns it."""

    exit_code: int
    collections: tuple[CollectionOutcome, ...]


class BatchRunner:
    """Runs a configuration; without `parts`, on real models and worker processes."""

    def __init__(
        self,
        config: PipelineConfig,
        emit: Emit,
        run_id: str,
        parts: Parts | None = None,
        *,
        leave_up_to_date: bool = False,
    ) -> None:
        """`leave_up_to_date`: a bundle that is what a run would make stays as it is."""
        self._config = config
        self._emit = emit
        self._run_id = run_id
        self._given_parts = parts
        self._leave_up_to_date = leave_up_to_date
        self._warnings: list[str] = []
        self._work_root = config.output_dir / WORK_FOLDER

    def run(self) -> RunOutcome:
        """Make a bundle of every collection chosen.

        Raises:
            UsageError: a name, a setting or a folder is wrong; nothing was started.
            RunStopped: the run ended early; the same command resumes it.
        """
        started = time.perf_counter()
        folders = self._folders()
        parts = self._parts()
        config = self._checked(parts, folders)
        with only_run_in(self._work_root):
            self._emit(self._run_started(folders))
            exit_code = EmbedderError.exit_code
            try:
                self._recover(folders)
                outcomes = tuple(self._one(folder, config, parts) for folder in folders)
                exit_code = int(any(outcome.error for outcome in outcomes))
            except EmbedderError as error:
                exit_code = error.exit_code
                raise
            except KeyboardInterrupt:
                exit_code = RunStopped.exit_code
                raise
            finally:
                seconds = time.perf_counter() - started
                self._emit(
                    RunFinished(
                        run_id=self._run_id, exit_code=exit_code, seconds=seconds
                    )
                )
        return RunOutcome(exit_code=exit_code, collections=outcomes)

    def plan(self) -> RunPlan:
        """Measure the collections chosen; load no model, publish nothing.

        Raises:
            UsageError: a name, a setting or a folder is wrong.
        """
        parts = self._parts()
        devices = parts.devices or resolve_devices(self._config.gpu)
        cap = planning_cap(self._config.gpu, devices[0])
        rows = self._config.gpu.rows_a_batch(on_gpu=cap is not None)
        budget = PlanBudget(parts.models.dtype(devices[0]), cap, rows)
        plans, failed = [], []
        for folder in self._folders():
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    measured = measure_collection(
                        folder,
                        self._config.dense,
                        parts.models,
                        Path(scratch),
                        self._emit,
                        long_texts=self._config.long_texts,
                        rows_a_batch=rows,
                        gpu_memory_cap_bytes=cap,
                    )
                except InputError as error:
                    failed.append(FailedPlan(name=folder.name, error=str(error)))
                    continue
                if told := told_too_deep(folder, measured.store.chunk(0)):
                    self._emit(Warned(message=told, collection=folder.name))
                plans.append(plan_collection(measured, devices, budget))
        return RunPlan(
            collections=tuple(plans),
            failed=tuple(failed),
            beside=plan_beside(
                self._config,
                Beside.of(
                    self._config,
                    parts.models,
                    None,
                    sparse_device=parts.sparse_device,
                    rerank_device=devices[0],
                ),
            ),
        )

    def _folders(self) -> list[CollectionFolder]:
        found = {
            folder.name: folder for folder in find_collections(self._config.chunked_dir)
        }
        if not found:
            raise _no_collection(self._config.chunked_dir)
        unknown = [name for name in self._config.collections if name not in found]
        if unknown:
            raise UsageError(
                f"No collection is called {', '.join(unknown)} in "
                f"{self._config.chunked_dir}.",
                cure=f"Found: {', '.join(found)}.",
            )
        chosen = [found[name] for name in dict.fromkeys(self._config.collections)]
        for folder in chosen or found.values():
            self._check_names(folder)
        return chosen or list(found.values())

    def _check_names(self, folder: CollectionFolder) -> None:
        """Refuse now what could not be part of a file name at the end."""
        names = BundleNames(folder.name)
        for model in self._config.dense:
            names.dense(model.name)
        for sparse in self._config.active_sparse:
            names.postings(sparse.name)

    def _parts(self) -> Parts:
        if self._given_parts is not None:
            return self._given_parts
        config = self._config
        devices = resolve_devices(config.gpu)
        sparse_device = resolve_one(config.sparse_device, "--sparse-device")
        return Parts(
            models=ModelManager(offline=config.offline),
            open_executor=worker_processes(config.gpu),
            load_scorer=_scorer_loader(config, devices[0]),
            device=devices[0],
            devices=devices,
            sparse_device=sparse_device,
            leases=_leases(config.gpu, (*devices, sparse_device)),
            now=lambda: datetime.now(UTC),
        )

    def _checked(
        self, parts: Parts, folders: Sequence[CollectionFolder]
    ) -> PipelineConfig:
        """Check before hours of work what can be checked: folders, room, models."""
        config = self._config
        require_writable(config.output_dir)
        if "faiss" in config.exports:
            require_faiss()
        if config.queries is not None:
            read_queries(config.queries)
        for folder in folders:
            require_replaceable(config.output_dir / folder.name)
        require_room(config, folders, self._work_root)
        own_parts = self._given_parts is None
        if own_parts and parts.device == "cpu" and config.gpu.backend != "cpu":
            for reason in unusable_cards():
                self._warn(
                    f"The CPU is used: {reason} Give --device cpu where that is meant."
                )
        return usable_models(config, parts.models, self._warn, reranker=own_parts)

    def _warn(self, message: str) -> None:
        self._warnings.append(message)
        self._emit(Warned(message=message))

    def _run_started(self, folders: Sequence[CollectionFolder]) -> RunStarted:
        return RunStarted(
            run_id=self._run_id,
            collections=tuple(folder.name for folder in folders),
            settings={
                entry.key: f"{entry.value} ({entry.layer})"
                for entry in self._config.provenance
            },
        )

    def _recover(self, folders: Sequence[CollectionFolder]) -> None:
        """Show the bundles again that a killed run left hidden, whatever comes next.

        Raises:
            OutputError: a folder cannot be renamed or removed.
        """
        for folder in folders:
            target = self._config.output_dir / folder.name
            try:
                recover(target)
            except OSError as error:
                raise output_error(error, target) from error

    def _one(
        self, folder: CollectionFolder, config: PipelineConfig, parts: Parts
    ) -> CollectionOutcome:
        started = time.perf_counter()
        self._emit(CollectionStarted(collection=folder.name))
        work_dir = self._work_root / folder.name
        try:
            if not config.resume and work_dir.exists():
                shutil.rmtree(work_dir)
            outcome = CollectionRun(
                folder,
                work_dir,
                config,
                parts,
                self._emit,
                self._run_id,
                self._redact_key(),
                self._warnings,
            ).run(leave_up_to_date=self._leave_up_to_date)
        except (RunStopped, UsageError):
            raise
        except OSError as error:
            raise output_error(error, work_dir) from error
        except MemoryError as error:
            raise OutOfMemory() from error
        except EmbedderError as error:
            outcome = CollectionOutcome(name=folder.name, error=error)
        self._emit(
            CollectionFinished(
                collection=folder.name,
                chunks=outcome.manifest.chunk_count if outcome.manifest else 0,
                seconds=time.perf_counter() - started,
                error=str(outcome.error) if outcome.error else None,
                up_to_date=outcome.up_to_date,
            )
        )
        return outcome

    def _redact_key(self) -> bytes | None:
        """Return a key that stays with the output folder, so that files repeat."""
        if not self._config.redact_queries:
            return None
        path = self._work_root / _REDACT_KEY
        if not path.is_file() or path.stat().st_size != _REDACT_KEY_BYTES:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(_REDACT_KEY_BYTES))
        return path.read_bytes()


def _no_collection(chunked_dir: Path) -> UsageError:
    if is_collection(chunked_dir):
        return UsageError(
            f"{chunked_dir} holds no collection: it holds chunk files itself.",
            cure="Give its parent.",
        )
    return UsageError(
        f"{chunked_dir} holds no collection.",
        cure="It needs folders with *_chunks.json files; chunk_docs_v5.py makes them.",
    )


def _scorer_loader(config: PipelineConfig, device: str) -> LoadScorer:
    def load(model: RerankingConfig) -> PairScorer:
        from .encoders.cross_encoder import TorchCrossEncoder

        return TorchCrossEncoder.load(
            model, device=device, offline=config.offline, threads=config.gpu.workers
        )

    return load


def _leases(gpu: KaggleGPUConfig, devices: Sequence[str]) -> Leases | None:
    """Return how GPUs are taken; None where there is none to take."""
    if not any(is_leased(device) for device in devices):
        return None
    from .encoders.device_probe import CudaProbe

    return Leases(
        probe=CudaProbe(),
        cap_bytes=gpu.memory_cap_bytes,
        wait_seconds=gpu.wait_seconds,
    )
