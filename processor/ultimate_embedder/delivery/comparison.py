"""Stored points compared with the bundle's: a sample whole, payloads one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..errors import DeliveryError
from .bundle_points import UploadPlan
from .layout import Point
from .store import Store

_TOLERANCE: Final = 1e-6  # the store normalises dense vectors again, in float32


def compare_sample(plan: UploadPlan, store: Store, wanted: int) -> int:
    """Compare points at even distances; return how many those were.

    Raises:
        DeliveryError: one differs; says which and how.
    """
    sample = list(plan.every(max(1, plan.points // wanted)))
    found = _first_difference(sample, store)
    if found is not None:
        raise DeliveryError(
            f"Point {found[0]} of the {store.describe()} is not what was sent: "
            f"{found[1]}.",
            cure="Run the same command again with --recreate.",
        )
    return len(sample)


def holds(plan: UploadPlan, store: Store, rows: int, wanted: int) -> bool:
    """Return whether points at even distances among the first `rows` are as sent."""
    sample = list(plan.every(max(1, rows // wanted), stop=rows))
    return _first_difference(sample, store) is None


def changed_among(plan: UploadPlan, store: Store, rows: int) -> Iterator[list[Point]]:
    """Yield those of the first `rows` points that are missing or whose payload is not
    as sent, in batches.

    Another bundle of the same collection differs in few points, which a sample misses.
    """
    for batch in plan.batches(stop=rows):
        stored = store.payloads([point["id"] for point in batch])
        changed = [p for p in batch if stored.get(p["id"]) != p["payload"]]
        if changed:
            yield changed


def _first_difference(sample: Sequence[Point], store: Store) -> tuple[str, str] | None:
    """Return the id of a point that is not as it stands in the bundle, and why."""
    stored = store.fetch([point["id"] for point in sample])
    for sent in sample:
        found = stored.get(sent["id"])
        difference = "it is missing" if found is None else _difference(sent, found)
        if difference is not None:
            return sent["id"], difference
    return None


def _difference(sent: Point, found: Point) -> str | None:
    """Return how a stored point differs from the one sent, or None when it does not."""
    if sent["payload"] != found["payload"]:
        return "its payload differs"
    for name, vector in sent["vector"].items():
        if name not in found["vector"]:
            return f"vector '{name}' is missing"
        if not _same_vector(vector, found["vector"][name]):
            return f"vector '{name}' differs"
    return None


def _same_vector(sent: Any, found: Any) -> bool:
    if isinstance(sent, Mapping):
        ours = dict(zip(sent["indices"], sent["values"], strict=True))
        theirs = dict(zip(found["indices"], found["values"], strict=True))
        return ours.keys() == theirs.keys() and np.allclose(
            list(ours.values()), [theirs[key] for key in ours], rtol=_TOLERANCE, atol=0
        )
    return len(sent) == len(found) and np.allclose(sent, found, rtol=0, atol=_TOLERANCE)
