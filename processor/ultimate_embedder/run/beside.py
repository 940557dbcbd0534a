"""The memory of the models that are not dense: SPLADE and the reranker.

Their passes have no plan of batches: each is cut as it comes, to what is planned here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from ..config import ROWS_A_BATCH, PipelineConfig, RerankingConfig, SparseModelConfig
from ..encoders.architecture import read_architecture
from ..encoders.sources import locate_model
from ..encoders.splade_source import find_splade
from ..errors import ModelError
from ..gpu_lease import Leases, is_leased
from ..intake.chunk_store import ChunkStore
from ..memory_cost import LENGTH_MULTIPLE, Architecture, Head, padded_length
from ..memory_plan import MemoryPlan, ModelKind, plan_on_cpu, plan_on_gpu
from ..memory_room import PlannedRoom
from ..models.manager import ModelSource
from .memory import room_on

_HEADS: Mapping[ModelKind, Head] = {"sparse": "masked-lm", "rerank": "classifier"}
_WIDE = "float32"
_BATCH_TEXTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Where SPLADE models and the reranker run, in which precision, in how much room.

    A room is in bytes, and None on a CPU.
    """

    sparse_device: str
    sparse_dtype: str
    sparse_room: int | None
    rerank_device: str
    rerank_dtype: str
    rerank_room: int | None

    @classmethod
    def of(
        cls,
        config: PipelineConfig,
        models: ModelSource,
        leases: Leases | None,
        *,
        sparse_device: str,
        rerank_device: str,
    ) -> Beside:
        """Return what holds of two devices."""
        return cls(
            sparse_device=sparse_device,
            sparse_dtype=models.dtype(sparse_device),
            sparse_room=room_on(config.gpu, (sparse_device,), leases),
            rerank_device=rerank_device,
            rerank_dtype=models.dtype(rerank_device),
            rerank_room=room_on(config.gpu, (rerank_device,), leases),
        )

    def for_sparse(self, model: SparseModelConfig) -> PlannedRoom | None:
        """Return the room for a SPLADE model; None on a CPU."""
        if self.sparse_room is None:
            return None
        return PlannedRoom(
            model=model.name,
            kind="sparse",
            architecture=_architecture(model, _HEADS["sparse"]),
            dtype=self.sparse_dtype,
            cap_bytes=self.sparse_room,
        )

    def for_rerank(self, model: RerankingConfig) -> PlannedRoom | None:
        """Return the room for a reranker; None on a CPU."""
        if self.rerank_room is None:
            return None
        return PlannedRoom(
            model=model.name,
            kind="rerank",
            architecture=_architecture(model, _HEADS["rerank"]),
            dtype=_rerank_dtype(model, self.rerank_device, self.rerank_dtype),
            cap_bytes=self.rerank_room,
        )


def require_weights(room: PlannedRoom | None) -> None:
    """Refuse a model that has no room for anything beside its weights.

    Raises:
        DeviceOutOfMemory: naming the model and the bytes.
    """
    if room is not None and not room.holds(LENGTH_MULTIPLE):
        raise room.refusal(LENGTH_MULTIPLE)


def require_fit_beside(
    config: PipelineConfig, beside: Beside, store: ChunkStore
) -> None:
    """Refuse what SPLADE and rerank could not do, before anything is computed.

    A reranker with a fallback is not refused, nor one that nothing asks; which of the
    chunks it reads, and how they are paired, is not known yet.

    Raises:
        DeviceOutOfMemory: a chunk does not fit a sparse model, or the reranker has no
            room beside its weights.
    """
    for model in config.active_sparse:
        room = beside.for_sparse(model) if model.kind == "splade" else None
        if room is not None:
            _require_longest(config, model, room, store)
    rerank = config.active_rerank
    if rerank is not None and rerank.fallback is None and _is_asked(config):
        require_weights(beside.for_rerank(rerank))


def plan_beside(config: PipelineConfig, beside: Beside) -> tuple[MemoryPlan, ...]:
    """Return what SPLADE models and the reranker take, where their files are here.

    Each at the longest that its window allows.
    """
    plans = [
        _plan(model, "sparse", beside.sparse_dtype, beside.sparse_room, ROWS_A_BATCH)
        for model in config.active_sparse
        if model.kind == "splade"
    ]
    if (rerank := config.active_rerank) is not None:
        dtype = _rerank_dtype(rerank, beside.rerank_device, beside.rerank_dtype)
        room, rows = beside.rerank_room, rerank.batch_cap
        plans.append(_plan(rerank, "rerank", dtype, room, rows))
    return tuple(plan for plan in plans if plan is not None)


def _plan(
    model: SparseModelConfig | RerankingConfig,
    kind: ModelKind,
    dtype: str,
    room: int | None,
    rows: int,
) -> MemoryPlan | None:
    architecture = _architecture(model, _HEADS[kind])
    if architecture is None:
        return None
    if room is None:
        return plan_on_cpu(
            architecture,
            model=model.name,
            dtype=dtype,
            longest=model.max_tokens,
            rows=1,
            kind=kind,
        )
    return plan_on_gpu(
        architecture,
        model=model.name,
        dtype=dtype,
        cap_bytes=room,
        batches=[(rows, model.max_tokens)],
        longest=model.max_tokens,
        most_rows=rows,
        kind=kind,
    )


def _architecture(
    model: SparseModelConfig | RerankingConfig, head: Head
) -> Architecture | None:
    """Return the shape of a model whose files are here: nothing is fetched for it."""
    package = model.package if isinstance(model, RerankingConfig) else None
    try:
        location = locate_model(
            model.hf_model_id,
            revision=model.revision,
            package=package,
            offline=True,
            trust_remote_code=model.trust_remote_code,
        )
        return read_architecture(location.path, head)
    except ModelError:
        return None


def _rerank_dtype(model: RerankingConfig, device: str, dtype: str) -> str:
    """Return the precision of a reranker; one that is put together stays wide."""
    return _WIDE if model.difference and is_leased(device) else dtype


def _is_asked(config: PipelineConfig) -> bool:
    return config.probes or config.queries is not None


def _require_longest(
    config: PipelineConfig,
    model: SparseModelConfig,
    room: PlannedRoom,
    store: ChunkStore,
) -> None:
    """Refuse the longest chunk that does not fit; texts are counted only if one may.

    Raises:
        DeviceOutOfMemory: naming the chunk.
    """
    if room.holds(padded_length(model.max_tokens, model.max_tokens)):
        return
    tokenizer = find_splade(model, offline=config.offline).tokenizer
    longest, row = 0, 0
    chunks = enumerate(iter(store))
    while batch := list(islice(chunks, _BATCH_TEXTS)):
        found = tokenizer.encode([chunk.text for _, chunk in batch], "document")
        for (number, _), ids in zip(batch, found.ids, strict=True):
            if len(ids) > longest:
                longest, row = len(ids), number
    tokens = padded_length(min(longest, model.max_tokens), model.max_tokens)
    if not room.holds(tokens):
        raise room.refusal(tokens, row=row, chunk_id=store.chunk(row).chunk_id)
