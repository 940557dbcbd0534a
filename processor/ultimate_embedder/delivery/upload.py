"""A bundle into a store: fit first, then send, then count and compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import DeliveryError
from .bundle_points import MAX_BATCH_BYTES, UploadPlan
from .comparison import changed_among, compare_sample, holds
from .cursor import Cursor, Journey, cursor_path
from .layout import CollectionLayout, Point, differences
from .membership import Membership, compare
from .retry import Unsteady
from .store import Store, TooLarge

SAMPLED_POINTS: Final = 32
LOOKED_AT_AGAIN: Final = 256
INDEX_SECONDS: Final = 3600.0
_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOptions:
    """What an upload may do beyond sending points.

    `recreate` removes the collection first; `remove_stale` removes points of an earlier
    bundle of the same collection afterwards. `alias` is made to stand for the
    collection at the end. `resume` goes on where an interrupted upload stopped.
    """

    recreate: bool = False
    remove_stale: bool = False
    alias: str | None = None
    resume: bool = True
    batch_bytes: int = MAX_BATCH_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadReport:
    """What an upload did. `points_before` is 0 for a collection that was made.

    `resumed_at` is how many points an interrupted upload had sent; `sent` those that
    this one did. `alias_before` is what the alias stood for.
    """

    target: str
    collection: str
    created: bool
    points: int
    points_before: int
    points_after: int
    resumed_at: int
    sent: int
    stale_removed: int
    compared: int
    seconds: float
    vectors: Mapping[str, str]
    alias: str | None = None
    alias_before: str | None = None
    notes: tuple[str, ...] = ()


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
    options: UploadOptions | None = None,
    *,
    advance: Callable[[int], None] | None = None,
) -> UploadReport:
    """Send the points of `plan` and prove that they arrived.

    Point ids are fixed by the bundle: sending it again changes nothing. `advance` is
    told how many points each batch held, those sent by an earlier try first.

    Raises:
        DeliveryError: the collection does not fit, the store fails, or what it holds
            afterwards is not what was sent.
        BundleError: a line of the bundle cannot be read.
        UsageError: the store cannot have the alias.
    """
    return _Upload(plan, store, options or UploadOptions(), advance).run()


class _Upload:
    """One upload, from the first question to the report."""

    def __init__(
        self,
        plan: UploadPlan,
        store: Store,
        options: UploadOptions,
        advance: Callable[[int], None] | None,
    ) -> None:
        self._plan, self._store, self._options = plan, store, options
        self._advance = advance or (lambda _points: None)
        journey = _journey(plan, store)
        self._cursor = Cursor.load(cursor_path(plan.bundle, journey), journey)

    def run(self) -> UploadReport:
        started = time.monotonic()
        plan, store, options = self._plan, self._store, self._options
        alias_before = store.alias_of(options.alias) if options.alias else None
        created = self._prepare()
        before = 0 if created else store.count()
        stale = self._stale() if before else []
        resumed_at = self._cursor.rows
        self._send()
        again, after, compared = self._prove(stale, resumed_at)
        if options.alias:
            store.wait_until_indexed(INDEX_SECONDS)
            store.point_alias(options.alias)
        self._cursor.remove()
        return UploadReport(
            target=store.describe(),
            collection=plan.collection,
            created=created,
            points=plan.points,
            points_before=before,
            points_after=after,
            resumed_at=resumed_at,
            sent=plan.points - resumed_at + again,
            stale_removed=len(stale),
            compared=compared,
            seconds=time.monotonic() - started,
            vectors=plan.layout.vectors(),
            alias=options.alias,
            alias_before=alias_before,
            notes=self._notes(again),
        )

    def _prove(self, stale: list[str], confirmed: int) -> tuple[int, int, int]:
        """Return how many points were sent again, are there, and were compared.

        A target that does not hold what it confirmed is not gone on with.
        """
        try:
            again = self._complete(confirmed)
            self._store.delete(stale)
            self._store.finish()
            after = self._check_count()
            compared = compare_sample(self._plan, self._store, SAMPLED_POINTS)
        except Unsteady:
            raise
        except DeliveryError:
            self._cursor.remove()
            raise
        return again, after, compared

    def _prepare(self) -> bool:
        """Make or check the collection; return whether it was made."""
        plan, store, cursor = self._plan, self._store, self._cursor
        found = store.layout() if self._options.recreate else None
        if found is not None and not self._made(found):
            store.drop()
        exists = check_fit(plan, store)
        if not exists:
            store.create(plan.layout, plan.tuning)
            check_fit(plan, store)
        if not exists or not self._options.resume or not self._goes_on():
            made = not exists and self._options.recreate
            cursor.begin(recreated=made)
        store.index_payload()
        return not exists

    def _made(self, found: CollectionLayout) -> bool:
        """Return whether this journey made the collection and is alone there.

        Else it is removed once more: what stands in the way would stay there for good.
        """
        return (
            self._cursor.recreated
            and self._options.resume
            and not list(differences(self._plan.layout, found))
            and not self._membership().surplus
        )

    def _goes_on(self) -> bool:
        """Return whether what was confirmed is still there: others may write too."""
        rows = self._cursor.rows
        return rows == 0 or holds(self._plan, self._store, rows, LOOKED_AT_AGAIN)

    def _stale(self) -> list[str]:
        """Return the points of an earlier bundle; refuse to keep or to touch others.

        Asked before anything is sent: the points of two bundles are hard to part.
        """
        store, source = self._store, self._plan.source
        surplus = self._membership().surplus
        if not surplus:
            return []
        owners = store.owners(surplus)
        foreign = [one for one in surplus if owners.get(one) != source]
        if foreign:
            raise DeliveryError(
                f"The {store.describe()} holds {len(foreign):,} points that are not "
                f"of the collection '{source}', such as {foreign[0]}.",
                cure="Choose another with --collection, or replace it with --recreate.",
            )
        if not self._options.remove_stale:
            raise DeliveryError(
                f"The {store.describe()} holds {len(surplus):,} points of an earlier "
                f"bundle that are not in this one, such as {surplus[0]}.",
                cure="Remove them with --remove-stale, or replace the collection with "
                "--recreate.",
            )
        return surplus

    def _send(self) -> None:
        """Send what the target has not confirmed."""
        start = self._cursor.rows
        if start:
            self._advance(start)
        batches = self._plan.batches(start=start, max_bytes=self._options.batch_bytes)
        for batch in batches:
            send_batch(self._store, batch)
            self._cursor.advance(len(batch))
            self._advance(len(batch))

    def _complete(self, confirmed: int) -> int:
        """Send once more what the target lacks, and what another upload has changed
        among the rows confirmed to an earlier try; return how many points those were.
        """
        again = 0
        for batch in changed_among(self._plan, self._store, confirmed):
            send_batch(self._store, batch)
            again += len(batch)
        missing = self._membership().missing
        if missing:
            for batch in self._plan.batches_of(missing):
                send_batch(self._store, batch)
        return again + len(missing)

    def _check_count(self) -> int:
        plan, store = self._plan, self._store
        found = self._membership()
        count = store.count()
        if found.missing or found.surplus or count != plan.points:
            raise DeliveryError(
                f"The {store.describe()} holds {count:,} points for the bundle's "
                f"{plan.points:,}: {len(found.missing):,} are missing"
                f"{_examples(found.missing)}, {len(found.surplus):,} are not the "
                f"bundle's{_examples(found.surplus)}.",
                cure="Run the same command again; does something else write there?",
            )
        return count

    def _membership(self) -> Membership:
        return compare(self._plan.ids, self._store.ids())

    def _notes(self, again: int) -> tuple[str, ...]:
        notes = []
        if again:
            notes.append(
                f"{again:,} points had not arrived, or not as sent, and were sent once "
                "more."
            )
        if self._cursor.lost:
            notes.append(
                f"{self._cursor.path} could not be written ({self._cursor.lost}): an "
                "interrupted upload would have begun anew."
            )
        return tuple(notes)


def send_batch(store: Store, batch: list[Point]) -> None:
    """Send points; in halves where a store takes no request of that size.

    Raises:
        DeliveryError: a single point is too large, or the store fails.
    """
    try:
        store.upsert(batch)
    except TooLarge as error:
        if len(batch) == 1:
            raise DeliveryError(
                f"Chunk {batch[0]['payload'].get('chunk_id')!r} alone is too large. "
                f"{error.message}",
                cure="Raise the size of requests that the server takes, or cut chunks "
                "smaller.",
            ) from error
        half = len(batch) // 2
        send_batch(store, batch[:half])
        send_batch(store, batch[half:])


def _journey(plan: UploadPlan, store: Store) -> Journey:
    return Journey(
        points_sha256=plan.sha256,
        points=plan.points,
        target=store.identity(),
        collection=plan.collection,
        vectors=plan.layout.vectors(),
        tuning=plan.tuning.name,
    )


def _examples(ids: list[str]) -> str:
    return f" ({', '.join(ids[:_EXAMPLES])}...)" if ids else ""
