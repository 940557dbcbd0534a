"""Doubles that keep the contracts: for this project's tests and for its users'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .config import (
    DEFAULT_GPU_MEMORY_CAP_BYTES,
    GIB,
    ModelConfig,
    RerankingConfig,
)
from .encoders.passes import DeviceUse
from .encoders.protocols import AttentionEncoder, PairScorer
from .encoders.splade_source import SpladeSource
from .gpu_lease import Leases
from .models.manager import ModelManager
from .records import Float32Array, UInt32Array
from .run.parts import Parts
from .telemetry.events import Event
from .workers.jobs import EncodeJob
from .workers.opening import in_process

if TYPE_CHECKING:
    from .encoders.live_bytes import Meter
    from .encoders.metered import MeteredEncoder, MeteredScorer, MeteredSplade

FIXED_TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class RecordingListener(list[Event]):
    """A listener that is a list."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Event]) -> list[Event]:
        """Return the events of one kind, in order."""
        return [event for event in self if isinstance(event, kind)]


class HashingEncoder:
    """Counts token ids modulo the dimension: a vector one can check by hand.

    Attention falls from the first token to the last.
    """

    dtype = "float32"

    def __init__(self, dimension: int, device: str = "cpu") -> None:
        """`device` is a name only: everything is computed here."""
        self.dimension = dimension
        self.device = device

    def padded_length(self, tokens: int) -> int:
        """Return the length itself: nothing is padded."""
        return tokens

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension] of unit length."""
        vectors = np.stack(
            [np.bincount(row % self.dimension, minlength=self.dimension) for row in ids]
        ).astype(np.float32)
        unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Return the same vectors, and for each text float32 [length]."""
        falling = [np.arange(len(row), 0, -1, dtype=np.float32) for row in ids]
        return self.encode(ids), [row / row.sum() for row in falling]


class WordOverlapScorer:
    """Scores a pair by the share of the query's words that the document holds."""

    name = "word-overlap"

    def __init__(self, device: str = "cpu") -> None:
        """`device` is a name only: everything is computed here."""
        self.device = device

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return words of both texts."""
        return [len(query.split()) + len(text.split()) for query, text in pairs]

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """Return as many as there are words: nothing is padded."""
        return sum(lengths)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return float32 [pairs] in 0..1."""
        scores = []
        for query, text in pairs:
            asked = set(query.lower().split())
            scores.append(len(asked & set(text.lower().split())) / max(1, len(asked)))
        return np.array(scores, dtype=np.float32)


class HashingModels(ModelManager):
    """Real tokenizers of the embedded model, `HashingEncoder` for its weights."""

    def dtype(self, device: str) -> str:
        """Return the only precision there is."""
        return HashingEncoder.dtype

    @contextmanager
    def resident(
        self, config: ModelConfig, *, device: str = "cpu", dtype: str | None = None
    ) -> Iterator[AttentionEncoder]:
        """Yield an encoder of the model's width."""
        yield HashingEncoder(config.vector_dim, device)


class FakeDeviceProbe:
    """A `DeviceProbe` of cards that are pretended: they hold what they are charged.

    `limits` are the caps that were enforced, by device.
    """

    def __init__(self, total_bytes: int = 16 * GIB) -> None:
        self.limits: dict[str, int] = {}
        self._total_bytes = total_bytes
        self._held: Counter[str] = Counter()
        self._cached: Counter[str] = Counter()
        self._peak: Counter[str] = Counter()

    @contextmanager
    def charged(
        self, device: str, held_bytes: int, kept_bytes: int = 0
    ) -> Iterator[None]:
        """Hold memory for the length of the block; `kept_bytes` do not come back."""
        self._held[device] += held_bytes
        self._note(device)
        try:
            yield
        finally:
            self._held[device] -= held_bytes - kept_bytes

    def cache(self, device: str, cached_bytes: int) -> None:
        """Hold memory until `free` is called."""
        self._cached[device] += cached_bytes
        self._note(device)

    def identity(self, device: str) -> str:
        """Return the device's own name."""
        return device

    def describe(self, device: str) -> str:
        """Return what is shown as the card's name."""
        return "pretended card"

    def total_bytes(self, device: str) -> int:
        """Return the size given."""
        return self._total_bytes

    def used_bytes(self, device: str) -> int:
        """Return what is held now."""
        return self._held[device] + self._cached[device]

    def enforce_cap(self, device: str, cap_bytes: int) -> int:
        """Note the cap as the limit; peaks start anew."""
        self.limits[device] = cap_bytes
        self._peak[device] = self.used_bytes(device)
        return cap_bytes

    def peak_bytes(self, device: str) -> int:
        """Return the most held since `enforce_cap`."""
        return self._peak[device]

    def free(self, device: str) -> None:
        """Give back what was cached."""
        self._cached[device] = 0

    def _note(self, device: str) -> None:
        self._peak[device] = max(self._peak[device], self.used_bytes(device))


class FakeDevice:
    """A GPU of any size, pretended on the CPU: real models, bytes counted as they run.

    Its `open_encoder` is what `in_process` takes, `load_splade` and `load_scorer` are
    what `Parts` takes. What is charged are the tensors that live while a model works,
    not what a plan reckons. `encoders` are the dense models opened, `meters` count what
    each model took, these and others, in the order of loading.
    """

    def __init__(self, total_bytes: int) -> None:
        """`total_bytes` is for weights and passes; a context is not pretended."""
        self.total_bytes = total_bytes
        self.encoders: list[MeteredEncoder] = []
        self.meters: list[Meter] = []

    @property
    def peak_bytes(self) -> int:
        """The most held so far, one model at a time."""
        return max((meter.peak_bytes for meter in self.meters), default=0)

    @contextmanager
    def open_encoder(self, job: EncodeJob) -> Iterator[AttentionEncoder]:
        """Yield a job's model; a pass that would not fit is refused as it runs.

        Raises:
            DeviceOutOfMemory: the weights alone do not fit.
        """
        with self.resident(job.location, job.model, job.dtype) as encoder:
            yield encoder

    @contextmanager
    def resident(
        self, path: Path, config: ModelConfig, dtype: str = "float32"
    ) -> Iterator[MeteredEncoder]:
        """Yield the model of a folder.

        Raises:
            DeviceOutOfMemory: the weights alone do not fit.
        """
        from .encoders.metered import MeteredEncoder

        encoder = MeteredEncoder(
            path, config, dtype=dtype, total_bytes=self.total_bytes
        )
        self.encoders.append(encoder)
        self.meters.append(encoder)
        yield encoder

    def load_splade(
        self, source: SpladeSource, use: DeviceUse | None = None
    ) -> MeteredSplade:
        """Return a SPLADE model in the precision of its source.

        Raises:
            DeviceOutOfMemory: the weights alone do not fit.
        """
        from .encoders.metered import MeteredSplade

        loaded = MeteredSplade(source, use, total_bytes=self.total_bytes)
        self.meters.append(loaded.meter)
        return loaded

    def load_scorer(
        self, config: RerankingConfig, dtype: str = "float32"
    ) -> MeteredScorer:
        """Return a reranker.

        Raises:
            DeviceOutOfMemory: the weights alone do not fit.
        """
        from .encoders.metered import MeteredScorer

        loaded = MeteredScorer(config, dtype=dtype, total_bytes=self.total_bytes)
        self.meters.append(loaded.meter)
        return loaded


def hashing_parts() -> Parts:
    """Return parts that load no weights, for `BatchRunner`."""
    models = HashingModels(offline=True)

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        with models.resident(job.model) as encoder:
            yield encoder

    def load_scorer(config: RerankingConfig) -> PairScorer:
        return WordOverlapScorer()

    return Parts(
        models=models,
        open_executor=in_process(open_encoder),
        load_scorer=load_scorer,
        device="cpu",
        now=lambda: FIXED_TIME,
    )


def hashing_parts_on(
    devices: tuple[str, ...],
    probe: FakeDeviceProbe,
    lock_dir: Path,
    *,
    model_bytes: Mapping[str, int],
    cap_bytes: int = DEFAULT_GPU_MEMORY_CAP_BYTES,
) -> Parts:
    """Return `hashing_parts` that pretend to run on cards.

    `model_bytes` is what a model takes on the first card while it is there.
    """
    models = HashingModels(offline=True)

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        with (
            probe.charged(devices[0], model_bytes[job.model.name]),
            models.resident(job.model, device=devices[0]) as encoder,
        ):
            yield encoder

    def load_scorer(config: RerankingConfig) -> PairScorer:
        probe.cache(devices[0], model_bytes.get(config.name, 0))
        return WordOverlapScorer(devices[0])

    return replace(
        hashing_parts(),
        models=models,
        open_executor=in_process(open_encoder),
        load_scorer=load_scorer,
        device=devices[0],
        devices=devices,
        leases=Leases(probe=probe, cap_bytes=cap_bytes, lock_dir=lock_dir),
    )
