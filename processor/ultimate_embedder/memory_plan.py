"""How large a batch may be under a memory cap, and what its passes come to.

A plan reckons with content and settings alone: the cap is a setting, the card at hand
is not. What a pass may take on that card, in its own precision, is a second and often
the larger figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from .memory_cost import (
    PLANNING_DTYPE,
    USEFUL_POSITIONS,
    Architecture,
    activation_bytes,
    planned_peak_bytes,
    room_bytes,
    token_budget,
    weight_bytes,
)
from .planning import TOKENS_A_BATCH

ModelKind = Literal["dense", "sparse", "rerank"]
CPU_ROWS = 4
"""Rows of a CPU's forward passes, whatever the batch: see `encoders.dense_torch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What one model's passes take, as reckoned. Bytes are bytes.

    `longest` is in positions, as padded; `rows_at_longest` texts of it make one pass
    of at most `budget_tokens`. `planned_peak_bytes` is that of the costliest pass, the
    CUDA context included on a GPU. `cap_bytes` is None on a CPU, which has none.
    `known`: the family was studied; others are reckoned as the costliest.
    """

    model: str
    kind: ModelKind
    family: str
    known: bool
    dtype: str
    weight_bytes: int
    activation_bytes: int
    planned_peak_bytes: int
    cap_bytes: int | None
    budget_tokens: int
    longest: int
    rows_at_longest: int
    fits: bool


def batch_budget(
    architecture: Architecture | None, cap_bytes: int, longest: int
) -> int:
    """Return the most positions of a batch that a GPU is planned for.

    One text fits always: whether the card has room for it is asked before a run.
    Without an architecture it is what a CPU's batches have.
    """
    if architecture is None:
        return max(longest, TOKENS_A_BATCH)
    room = room_bytes(cap_bytes)
    found = token_budget(architecture, PLANNING_DTYPE, room_bytes=room, longest=longest)
    return max(longest, found)


def pass_budget(
    architecture: Architecture,
    dtype: str,
    cap_bytes: int,
    longest: int,
    factor: float = 1.0,
) -> int:
    """Return the most positions of a forward pass; less than `longest`: none fits."""
    return token_budget(
        architecture,
        dtype,
        room_bytes=room_bytes(cap_bytes),
        longest=longest,
        factor=factor,
    )


def plan_on_gpu(
    architecture: Architecture,
    *,
    model: str,
    dtype: str,
    cap_bytes: int,
    batches: Iterable[tuple[int, int]],
    longest: int,
    most_rows: int,
    kind: ModelKind = "dense",
) -> MemoryPlan:
    """Return what the passes over these batches, (rows, longest) each, come to.

    A batch over the budget of a pass is cut to it.
    """
    budget = pass_budget(architecture, dtype, cap_bytes, longest)
    shapes = {_cut(rows, length, budget) for rows, length in batches}
    shapes = shapes or {(1, longest)}
    rows, length = max(
        shapes,
        key=lambda shape: activation_bytes(
            architecture, dtype, rows=shape[0], length=shape[1]
        ),
    )
    peak = planned_peak_bytes(architecture, dtype, rows=rows, length=length)
    return MemoryPlan(
        model=model,
        kind=kind,
        family=architecture.family,
        known=architecture.known,
        dtype=dtype,
        weight_bytes=weight_bytes(architecture, dtype),
        activation_bytes=activation_bytes(
            architecture, dtype, rows=rows, length=length
        ),
        planned_peak_bytes=peak,
        cap_bytes=cap_bytes,
        budget_tokens=budget,
        longest=longest,
        rows_at_longest=min(most_rows, budget // max(1, longest)),
        fits=budget >= longest,
    )


def plan_on_cpu(
    architecture: Architecture,
    *,
    model: str,
    dtype: str,
    longest: int,
    rows: int = CPU_ROWS,
    kind: ModelKind = "dense",
) -> MemoryPlan:
    """Return what one worker's passes come to; there is no cap."""
    weights = weight_bytes(architecture, dtype)
    activations = activation_bytes(architecture, dtype, rows=rows, length=longest)
    return MemoryPlan(
        model=model,
        kind=kind,
        family=architecture.family,
        known=architecture.known,
        dtype=dtype,
        weight_bytes=weights,
        activation_bytes=activations,
        planned_peak_bytes=weights + activations,
        cap_bytes=None,
        budget_tokens=TOKENS_A_BATCH,
        longest=longest,
        rows_at_longest=rows,
        fits=True,
    )


@runtime_checkable
class PassProbe(Protocol):
    """Runs a forward pass on a device that can measure it."""

    def measure(self, rows: int, length: int) -> int:
        """Return the most bytes of tensors that a pass over [rows, length] took.

        Weights are not among them.

        Raises:
            DeviceOutOfMemory: the pass does not fit.
        """


@runtime_checkable
class Probed(Protocol):
    """A model of which a pass can be measured, where its device allows that."""

    def pass_probe(self) -> PassProbe | None:
        """Return what measures a pass; None on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one pass took against what was reckoned; bytes are without weights."""

    rows: int
    length: int
    reckoned_bytes: int
    measured_bytes: int

    @property
    def factor(self) -> float:
        """What activations are multiplied by: a plan is corrected upwards only.

        One pass shows where a device needs more; that it needed less at one length
        does not say so of others.
        """
        return max(1.0, self.measured_bytes / self.reckoned_bytes)


def calibrate(
    architecture: Architecture, dtype: str, probe: PassProbe, *, longest: int
) -> Calibration:
    """Run one text of the longest length and compare.

    Raises:
        DeviceOutOfMemory: it does not fit the device.
    """
    reckoned = activation_bytes(architecture, dtype, rows=1, length=longest)
    return Calibration(
        rows=1,
        length=longest,
        reckoned_bytes=reckoned,
        measured_bytes=probe.measure(1, longest),
    )


def _cut(rows: int, length: int, budget: int) -> tuple[int, int]:
    """Return the larger pass that a batch comes to."""
    return min(rows, max(1, min(budget, USEFUL_POSITIONS) // max(1, length))), length
