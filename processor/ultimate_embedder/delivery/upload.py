"""A bundle into a store: fit first, then send, then count and compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..errors import DeliveryError
from .bundle_points import UploadPlan, read_batches
from .layout import Point, Store, differences

SAMPLED_POINTS: Final = 32
_TOLERANCE: Final = 1e-6  # the store normalises dense vectors again, in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadReport:
    """What an upload did. `points_before` is 0 for a collection that was made."""

    target: str
    collection: str
    created: bool
    points: int
    points_before: int
    points_after: int
    compared: int
    seconds: float
    vectors: Mapping[str, str]


def check_fit(plan: UploadPlan, store: Store) -> bool:
    """Return whether the collection exists; refuse one that the bundle does not fit.

    Raises:
        DeliveryError: naming every vector that differs.
    """
    found = store.layout()
    if found is None:
        return False
    reasons = list(differences(plan.layout, found))
    if reasons:
        raise DeliveryError(
            f"The bundle does not fit the {store.describe()}: {'; '.join(reasons)}.",
            cure="Choose another with --collection, or replace it with --recreate.",
        )
    return True


def send_bundle(
    plan: UploadPlan,
    store: Store,
    *,
    recreate: bool = False,
    advance: Callable[[int], None] | None = None,
) -> UploadReport:
    """Send the points of `plan` and prove that they arrived.

    Point ids are fixed by the bundle: sending it again changes nothing. `advance` is
    told how many points each batch held.

    Raises:
        DeliveryError: the collection does not fit, the store fails, or what it holds
            afterwards is not what was sent.
        BundleError: a line of the bundle cannot be read.
    """
    started = time.monotonic()
    if recreate and store.layout() is not None:
        store.drop()
    exists = check_fit(plan, store)
    if not exists:
        store.create(plan.layout)
    before = store.count() if exists else 0
    _refuse_strangers(plan, store, before)
    sample = _send(plan, store, advance)
    store.finish()
    after = store.count()
    _refuse_strangers(plan, store, after)
    _refuse_gaps(plan, store, after)
    _compare_points(store, sample)
    return UploadReport(
        target=store.describe(),
        collection=plan.collection,
        created=not exists,
        points=plan.points,
        points_before=before,
        points_after=after,
        compared=len(sample),
        seconds=time.monotonic() - started,
        vectors=plan.layout.vectors(),
    )


def _send(
    plan: UploadPlan, store: Store, advance: Callable[[int], None] | None
) -> list[Point]:
    """Send every batch; return points at even distances, to be compared afterwards."""
    step = max(1, plan.points // SAMPLED_POINTS)
    sample: list[Point] = []
    sent = 0
    for batch in read_batches(plan.points_file):
        store.upsert(batch)
        sample += batch[-sent % step :: step]
        sent += len(batch)
        if advance is not None:
            advance(len(batch))
    return sample


def _refuse_strangers(plan: UploadPlan, store: Store, found: int) -> None:
    """Return unless the collection must hold points that are not the bundle's.

    Asked before anything is sent too: the points of two bundles are hard to part.
    """
    if found > plan.points:
        raise DeliveryError(
            f"The {store.describe()} holds {found:,} points, the bundle "
            f"{plan.points:,}: {found - plan.points:,} are left from something else.",
            cure="Replace the collection with --recreate.",
        )


def _refuse_gaps(plan: UploadPlan, store: Store, found: int) -> None:
    if found < plan.points:
        raise DeliveryError(
            f"The {store.describe()} holds {found:,} points of the bundle's "
            f"{plan.points:,}.",
            cure="Run the same command again.",
        )


def _compare_points(store: Store, sample: list[Point]) -> None:
    stored = store.fetch([point["id"] for point in sample])
    for sent in sample:
        found = stored.get(sent["id"])
        difference = "it is missing" if found is None else _difference(sent, found)
        if difference is not None:
            raise DeliveryError(
                f"Point {sent['id']} of the {store.describe()} is not what was sent: "
                f"{difference}.",
                cure="Run the same command again with --recreate.",
            )


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
