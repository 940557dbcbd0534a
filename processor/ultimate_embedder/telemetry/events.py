"""The vocabulary of what happens in a run. Events carry figures, never texts.

The pipeline makes one frozen record an event and hands it to an `Emit`; who listens,
and with which library, is decided where the run is started.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["chunk", "read", "dense", "sparse", "fusion", "rerank", "export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`at` is the wall clock, seconds since 1970: fit for spans and logs."""

    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run over `collections` begins."""

    run_id: str
    collections: tuple[str, ...]
    settings: Mapping[str, str]  # key -> "value (layer)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run is over; the exit code tells how."""

    run_id: str
    exit_code: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStarted(Event):
    """Work on one collection begins."""

    collection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionFinished(Event):
    """One collection is published, found up to date, or has failed with `error`."""

    collection: str
    chunks: int
    seconds: float
    error: str | None = None
    up_to_date: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    """A stage begins; `total` counts what progress will count (`unit`)."""

    stage: Stage
    collection: str
    model: str | None = None
    total: int | None = None
    unit: str = "chunks"
    done_before: int = 0  # found finished by an earlier run
    turn: tuple[int, int] | None = None  # the second of three passes: (2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFinished(Event):
    """One unit of a stage's work is done (for rerank: one query).

    `batch_size` counts what was computed at once where that is not `items`: pairs of a
    query and a candidate, pieces of long texts.
    """

    stage: Stage
    collection: str
    model: str | None = None
    items: int
    seconds: float
    tokens: int = 0
    padded_tokens: int = 0
    truncated_tokens: int = 0
    device: str = "cpu"
    batch_size: int | None = None
    candidates: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished(Event):
    """A stage ended well; `reused` of its items were done by an earlier run.

    `empty` of its chunks have no entry in their sparse vector; `repeats` have the text
    of another one, and were computed with it.
    """

    stage: Stage
    collection: str
    model: str | None = None
    items: int
    seconds: float
    tokens: int = 0
    device: str = "cpu"
    gpu_peak_bytes: int | None = None
    candidates: int | None = None
    fallback_reason: str | None = None
    reused: int = 0
    empty: int = 0
    repeats: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSkipped(Event):
    """A stage did not run: switched off (`layer` says where) or impossible."""

    stage: Stage
    collection: str
    reason: str
    layer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRedone(Event):
    """What an earlier run left is not used, or not all of it, and why.

    Without a stage it is the bundle itself. `damaged`: bytes are not what was written.
    """

    collection: str
    reason: str
    stage: Stage | None = None
    model: str | None = None
    damaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemQuarantined(Event):
    """A chunk or file was set aside."""

    collection: str
    file: str
    index: int | None
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed(Event):
    """A stage used its second choice."""

    stage: Stage
    collection: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRetried(Event):
    """An allocation failed and the batch was made smaller."""

    stage: Stage
    model: str
    device: str
    budget_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseChanged(Event):
    """A model took or gave back a device.

    Bytes are those this run's processes held there, CUDA contexts included.
    """

    stage: Stage
    model: str
    device: str
    action: Literal["acquired", "released"]
    cap_bytes: int
    before_bytes: int
    peak_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something a person should know, in one line."""

    message: str
    collection: str | None = None


Listener = Callable[[Event], None]
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Hear nothing: the default where no one listens."""


def fan_out(listeners: Sequence[Listener]) -> Emit:
    """Return an `Emit` that hands each event to each listener.

    A listener that raises is reported once and left out from then on: telemetry may
    break, the run may not.
    """
    active = list(listeners)

    def emit(event: Event) -> None:
        for listener in tuple(active):
            try:
                listener(event)
            except Exception:  # whatever a sink raises is its own failure
                active.remove(listener)
                logging.getLogger(__name__).warning(
                    "A telemetry listener failed and is off for the rest of the run: "
                    "%r",
                    listener,
                    exc_info=True,
                )

    return emit
