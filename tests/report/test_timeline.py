"""What a manifest keeps of a run's pace and of the lengths of its texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.run.token_lengths import PLACES, token_lengths
from processor.ultimate_embedder.telemetry.events import BatchFinished, StageStarted
from processor.ultimate_embedder.telemetry.timeline import SLICES, Timeline


def batch(at: float, items: int, *, collection: str = "docs") -> BatchFinished:
    return BatchFinished(
        stage="dense",
        collection=collection,
        model="m",
        items=items,
        tokens=items * 10,
        seconds=0.0,
        at=at,
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_every_item_is_counted_however_long_the_run_and_room_stays_bounded(
    times: list[float],
) -> None:
    timeline = Timeline("docs")
    timeline(StageStarted(stage="dense", collection="docs", model="m", at=1000.0))
    for at in sorted(times):
        timeline(batch(1000.0 + at, 3))
    found = timeline.passes["dense", "m"]
    assert sum(found.items) == 3 * len(times)
    assert sum(found.tokens) == 30 * len(times)
    assert len(found.items) == len(found.tokens) <= SLICES
    assert found.width * len(found.items) > max(times) - 1e-6


def test_slices_stand_where_their_batches_finished() -> None:
    timeline = Timeline("docs")
    timeline(StageStarted(stage="dense", collection="docs", model="m", at=50.0))
    for second in range(120):
        timeline(batch(50.0 + second, second))
    found = timeline.passes["dense", "m"]
    assert found.width == 2.0
    assert found.items == [4 * pair + 1 for pair in range(60)]


def test_other_collections_are_not_counted() -> None:
    timeline = Timeline("docs")
    timeline(batch(1.0, 3, collection="others"))
    assert timeline.passes == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 100_000), min_size=1), st.integers(1, 9000))
def test_the_histogram_counts_each_text_at_its_place(
    lengths: list[int], window: int
) -> None:
    found = token_lengths(np.array(lengths), window=window)
    assert found is not None
    assert sum(found.counts) == len(lengths)
    assert len(found.counts) <= PLACES
    assert found.longest == max(lengths)
    for place, counted in enumerate(found.counts[: PLACES - 1]):
        low, high = place * found.width, (place + 1) * found.width
        assert counted == sum(low < length <= high for length in lengths)


def test_without_texts_there_is_no_histogram() -> None:
    assert token_lengths(np.array([], dtype=np.int64), window=5) is None
