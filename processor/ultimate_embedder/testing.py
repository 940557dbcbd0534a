"""Doubles that keep the contracts: for this project's tests and for its users'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np

from .config import ModelConfig, RerankingConfig
from .encoders.protocols import AttentionEncoder, PairScorer
from .model_manager import ModelManager
from .records import Float32Array, UInt32Array
from .run.collection import Parts
from .telemetry.events import Event
from .workers.jobs import EncodeJob
from .workers.opening import in_process

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

    device = "cpu"
    dtype = "float32"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

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
    device = "cpu"

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
        yield HashingEncoder(config.vector_dim)


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
