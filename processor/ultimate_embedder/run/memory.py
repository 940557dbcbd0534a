"""A collection's passes and the memory there is: planned, or refused beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..config import KaggleGPUConfig, ModelConfig
from ..gpu_lease import Leases, is_leased
from ..intake.measure import MeasuredCollection, MeasuredModel, gpu_lengths
from ..memory_plan import MemoryPlan, plan_on_cpu, plan_on_gpu
from ..memory_room import PlannedRoom
from ..records import Int64Array

_CPU_LENGTH_MULTIPLE = 16


def planning_cap(gpu: KaggleGPUConfig, device: str) -> int | None:
    """Return the cap that batches are planned for: a setting; None on a CPU."""
    return gpu.memory_cap_bytes if is_leased(device) else None


def room_on(
    gpu: KaggleGPUConfig, devices: tuple[str, ...], leases: Leases | None
) -> int | None:
    """Return what a process may hold on each card, None on a CPU.

    That is the cap, or the smallest card where that is less.
    """
    cards = [device for device in devices if is_leased(device)]
    if not cards:
        return None
    totals = [leases.probe.total_bytes(card) for card in cards] if leases else []
    cap = leases.cap_bytes if leases else gpu.memory_cap_bytes
    return min([cap, *totals])


def budget_of(model: MeasuredModel, dtype: str, room: int | None) -> int | None:
    """Return the most positions of one of a model's passes; None: it is not known."""
    longest = _longest(model)
    if room is None or model.architecture is None or longest is None:
        return None
    return _dense_room(model, dtype, room).positions(longest[0])


def require_fit(
    collection: MeasuredCollection,
    dtype_of: Callable[[ModelConfig], str],
    room: int | None,
) -> None:
    """Refuse a run that cannot end well, before anything is computed.

    Raises:
        DeviceOutOfMemory: the longest text of a model does not fit alone; its chunk is
            named.
    """
    for model in collection.models:
        longest = _longest(model)
        if room is None or longest is None:
            continue
        tokens, row = longest
        planned = _dense_room(model, dtype_of(model.config), room)
        if not planned.holds(tokens):
            chunk_id = collection.store.chunk(row).chunk_id
            raise planned.refusal(tokens, row=row, chunk_id=chunk_id)


def _dense_room(model: MeasuredModel, dtype: str, room: int) -> PlannedRoom:
    return PlannedRoom(
        model=model.config.name,
        kind="dense",
        architecture=model.architecture,
        dtype=dtype,
        cap_bytes=room,
    )


def plan_memory(
    model: MeasuredModel, dtype: str, cap_bytes: int | None, most_rows: int
) -> MemoryPlan | None:
    """Return what a model's passes come to; None: its files say no shape."""
    longest = _longest(model)
    if model.architecture is None or longest is None:
        return None
    if cap_bytes is None:
        multiple = _CPU_LENGTH_MULTIPLE
        tokens = int(_lengths(model).max())
        return plan_on_cpu(
            model.architecture,
            model=model.config.name,
            dtype=dtype,
            longest=-(-tokens // multiple) * multiple,
        )
    padded = gpu_lengths(_lengths(model), model.config.max_tokens)
    bounds = model.plan.bounds
    return plan_on_gpu(
        model.architecture,
        model=model.config.name,
        dtype=dtype,
        cap_bytes=cap_bytes,
        batches=zip(
            np.diff(bounds).tolist(), padded[bounds[:-1]].tolist(), strict=True
        ),
        longest=longest[0],
        most_rows=most_rows,
    )


def _lengths(model: MeasuredModel) -> Int64Array:
    """Return the tokens of each piece, in the order of the plan."""
    return model.pieces.lengths(model.tokens, model.plan.rows)


def _longest(model: MeasuredModel) -> tuple[int, int] | None:
    """Return positions and row of the longest piece: the plan's first."""
    if not len(model.plan.rows):
        return None
    piece = int(model.plan.rows[0])
    tokens = int(_lengths(model)[0])
    window = piece - model.pieces.rows
    row = piece if window < 0 else int(model.pieces.window_rows[window])
    positions = gpu_lengths(np.array([tokens]), model.config.max_tokens)
    return int(positions[0]), row
