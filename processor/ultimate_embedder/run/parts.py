"""What a collection's run is given from outside, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import RerankingConfig
from ..encoders.passes import DeviceUse
from ..encoders.protocols import PairScorer
from ..encoders.splade_source import SpladeSource
from ..export.manifest import Manifest
from ..gpu_lease import Leases
from ..models.manager import ModelSource
from ..records import Float32Array
from ..stages.dense import OpenExecutor
from ..stages.sparse import SparseResult

if TYPE_CHECKING:
    from ..encoders.splade import SpladeEncoder

LoadScorer = Callable[[RerankingConfig], PairScorer]
LoadSplade = Callable[[SpladeSource, DeviceUse], "SpladeEncoder"]


def load_splade(source: SpladeSource, use: DeviceUse) -> SpladeEncoder:
    """Load a SPLADE model with torch.

    Raises:
        ModelError: it cannot be loaded.
        DeviceOutOfMemory: its weights do not fit the device.
    """
    from ..encoders.splade import SpladeEncoder

    return SpladeEncoder.load(source, use)


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
    load_splade: LoadSplade = load_splade


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
