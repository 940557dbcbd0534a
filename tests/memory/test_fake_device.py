"""Plans and real passes on devices of any size: the cap holds, every text is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_parts import FAMILIES, TINY, WINDOW, random_ids, save_family

from processor.ultimate_embedder.config import (
    GPU_CONTEXT_BYTES,
    GPU_MARGIN_BYTES,
    ModelConfig,
)
from processor.ultimate_embedder.encoders.adaptive import AdaptiveEncoder
from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.encoders.metered import MeteredEncoder
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.memory_cost import (
    Architecture,
    activation_bytes,
    padded_length,
    planned_peak_bytes,
    room_bytes,
)
from processor.ultimate_embedder.memory_plan import (
    batch_budget,
    calibrate,
    pass_budget,
    plan_on_cpu,
    plan_on_gpu,
)
from processor.ultimate_embedder.memory_room import PlannedRoom
from processor.ultimate_embedder.planning import BatchPlan, plan_batches
from processor.ultimate_embedder.records import Float32Array, UInt32Array
from processor.ultimate_embedder.testing import FakeDevice

BESIDE = GPU_CONTEXT_BYTES + GPU_MARGIN_BYTES
SAME = 1e-4
LENGTHS = st.lists(
    st.one_of(st.integers(1, 40), st.integers(1, 300)), min_size=1, max_size=12
)
Saved = dict[str, tuple[Path, ModelConfig, Architecture]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    root = tmp_path_factory.mktemp("families")
    return {
        family: (
            root / family,
            save_family(root / family, family, TINY),
            read_architecture(root / family),
        )
        for family in FAMILIES
    }


def planned(
    shape: Architecture, lengths: Sequence[int], cap: int, most_rows: int
) -> tuple[BatchPlan, list[int]]:
    """Return the plan of texts under a cap, and their padded lengths."""
    padded = [padded_length(length, WINDOW) for length in lengths]
    plan = plan_batches(
        np.array(padded),
        np.arange(len(lengths)),
        budget_tokens=batch_budget(shape, cap, max(padded)),
        max_rows=most_rows,
    )
    return plan, padded


def smallest_cap(shape: Architecture, dtype: str, longest: int) -> int:
    """Return the least cap under which one text of this length fits."""
    return GPU_MARGIN_BYTES + planned_peak_bytes(shape, dtype, rows=1, length=longest)


def encode(
    encoder: AdaptiveEncoder, plan: BatchPlan, ids: Sequence[UInt32Array]
) -> Float32Array:
    """Return the vectors of all texts, by row, as a pass over a plan stores them."""
    vectors = np.full((len(ids), encoder.dimension), np.nan, dtype=np.float32)
    for number in range(len(plan)):
        rows = plan.batch(number)
        assert np.isnan(vectors[rows]).all(), "a text was done twice"
        vectors[rows] = encoder.encode([ids[row] for row in rows])
    return vectors


@given(
    family=st.sampled_from(list(FAMILIES)),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    lengths=LENGTHS,
    spare=st.integers(0, 4_000_000),
    most_rows=st.integers(1, 64),
)
@settings(max_examples=25, deadline=None)
def test_planned_and_measured_peaks_stay_under_the_cap_and_each_text_is_done_once(
    family: str,
    dtype: str,
    lengths: list[int],
    spare: int,
    most_rows: int,
    saved: Saved,
) -> None:
    path, config, shape = saved[family]
    longest = padded_length(max(lengths), WINDOW)
    cap = smallest_cap(shape, dtype, longest) + spare
    plan, padded = planned(shape, lengths, cap, most_rows)
    budget = pass_budget(shape, dtype, cap, longest)
    batches = [
        (len(plan.batch(number)), padded[plan.batch(number)[0]])
        for number in range(len(plan))
    ]
    memory = plan_on_gpu(
        shape,
        model=family,
        dtype=dtype,
        cap_bytes=cap,
        batches=batches,
        longest=longest,
        most_rows=most_rows,
    )
    assert memory.fits
    assert memory.planned_peak_bytes <= cap
    assert max(rows for rows, _ in batches) <= most_rows
    assert sorted(plan.rows.tolist()) == list(range(len(lengths)))

    device = FakeDevice(cap - BESIDE)
    ids = random_ids(lengths)
    with device.resident(path, config, dtype) as metered:
        encoder = AdaptiveEncoder(metered, family, budget_tokens=budget)
        vectors = encode(encoder, plan, ids)
        assert encoder.take_cost().oom_retries == 0
        assert all(positions <= budget for _, positions in metered.passes)
        assert sum(rows for rows, _ in metered.passes) == len(lengths)
        assert device.peak_bytes <= room_bytes(cap)
        alone = np.concatenate([metered.encode([row]) for row in ids])
    near = SAME if dtype == "float32" else 0.1
    assert np.abs(vectors - alone).max() <= near


class Unlucky:
    """A metered encoder whose calls fail at chosen numbers, if there is more than one
    text: as when another program takes memory for a moment."""

    def __init__(self, inner: MeteredEncoder, wrong: set[int]) -> None:
        self._inner, self._wrong = inner, wrong
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        self.calls += 1
        if self.calls in self._wrong and len(ids) > 1:
            raise DeviceOutOfMemory("taken by another program")
        return self._inner.encode(ids)


@given(
    family=st.sampled_from(list(FAMILIES)),
    lengths=LENGTHS,
    wrong=st.sets(st.integers(1, 20), max_size=10),
    shortage=st.floats(0, 1),
)
@settings(max_examples=15, deadline=None)
def test_memory_that_fails_or_is_less_than_planned_costs_no_text_and_no_order(
    family: str,
    lengths: list[int],
    wrong: set[int],
    shortage: float,
    saved: Saved,
) -> None:
    path, config, shape = saved[family]
    longest = padded_length(max(lengths), WINDOW)
    least = smallest_cap(shape, "float32", longest)
    # The plan is for a larger card than the one that is there.
    plan, _ = planned(shape, lengths, least + 50_000_000, 64)
    room = int(least + (1 - shortage) * 4_000_000) - BESIDE
    device = FakeDevice(room)
    ids = random_ids(lengths)
    with device.resident(path, config) as metered:
        encoder = AdaptiveEncoder(Unlucky(metered, wrong), family)
        vectors = encode(encoder, plan, ids)
        assert sum(rows for rows, _ in metered.passes) == len(lengths)
        assert device.peak_bytes <= room
        alone = np.concatenate([metered.encode([row]) for row in ids])
    assert np.abs(vectors - alone).max() <= SAME


def test_a_text_too_long_for_the_device_is_refused_as_it_runs(saved: Saved) -> None:
    path, config, shape = saved["bert"]
    cap = smallest_cap(shape, "float32", 64)
    device = FakeDevice(cap - BESIDE)
    with device.resident(path, config) as metered:
        encoder = AdaptiveEncoder(metered, "bert", cap_bytes=cap)
        with pytest.raises(DeviceOutOfMemory, match="one text of 400 tokens"):
            encoder.encode(random_ids([16, 400]))


def test_a_refusal_advises_shorter_chunks_only_where_they_would_help(
    saved: Saved,
) -> None:
    _, _, shape = saved["bert"]
    small = smallest_cap(shape, "float32", 64)
    for cap, advised in ((small, True), (BESIDE + 1000, False)):
        room = PlannedRoom(
            model="bert",
            kind="dense",
            architecture=shape,
            dtype="float32",
            cap_bytes=cap,
        )
        assert not room.holds(512)
        error = room.refusal(512)
        assert ("--max-tokens" in (error.cure or "")) == advised
        assert "--device cpu" in (error.cure or "")


def test_a_plan_is_of_its_costliest_pass_and_of_one_text_where_none_fits(
    saved: Saved,
) -> None:
    _, _, shape = saved["bert"]
    least = smallest_cap(shape, "float32", 512)
    needed = least - GPU_MARGIN_BYTES
    for batches in ([(1, 512), (2, 16)], [(8, 512)], []):
        for cap, rows in ((least, 1), (least - 1, 0)):
            plan = plan_on_gpu(
                shape,
                model="bert",
                dtype="float32",
                cap_bytes=cap,
                batches=batches,
                longest=512,
                most_rows=64,
            )
            assert (plan.fits, plan.rows_at_longest) == (rows == 1, rows)
            assert plan.planned_peak_bytes == needed


def test_a_batch_holds_one_text_whatever_the_cap_and_where_no_shape_is_known(
    saved: Saved,
) -> None:
    _, _, shape = saved["bert"]
    assert batch_budget(shape, BESIDE, 512) == 512
    assert batch_budget(None, BESIDE, 20_000) == 20_000


def test_a_plan_on_a_cpu_holds_the_weights_beside_its_rows(saved: Saved) -> None:
    path, config, shape = saved["bert"]
    plan = plan_on_cpu(shape, model="bert", dtype="float32", longest=256)
    with FakeDevice(2**40).resident(path, config) as metered:
        taken = metered.weight_bytes + metered.measure(plan.rows_at_longest, 256)
    assert taken <= plan.planned_peak_bytes <= 1.5 * taken
    assert (plan.fits, plan.cap_bytes, plan.rows_at_longest) == (True, None, 4)


def test_weights_too_large_for_the_device_are_refused(saved: Saved) -> None:
    path, config, _ = saved["bert"]
    with (
        pytest.raises(DeviceOutOfMemory, match="bytes of weights"),
        FakeDevice(1000).resident(path, config),
    ):
        pass


class Greedy:
    """A probe that tells of so many times the bytes that were reckoned."""

    def __init__(self, shape: Architecture, times: float) -> None:
        self._shape, self._times = shape, times
        self.asked: list[tuple[int, int]] = []

    def measure(self, rows: int, length: int) -> int:
        self.asked.append((rows, length))
        reckoned = activation_bytes(self._shape, "float32", rows=rows, length=length)
        return int(reckoned * self._times)


@pytest.mark.parametrize(("times", "factor"), [(0.5, 1.0), (1.0, 1.0), (1.5, 1.5)])
def test_a_calibration_measures_one_text_of_the_longest_and_corrects_upwards(
    times: float, factor: float, saved: Saved
) -> None:
    _, _, shape = saved["bert"]
    probe = Greedy(shape, times)
    found = calibrate(shape, "float32", probe, longest=256)
    assert probe.asked == [(1, 256)]
    assert found.factor == pytest.approx(factor, rel=1e-4)
    assert found.measured_bytes == pytest.approx(times * found.reckoned_bytes, abs=1)
    cap = smallest_cap(shape, "float32", 256) + 30_000_000
    before = pass_budget(shape, "float32", cap, 256)
    after = pass_budget(shape, "float32", cap, 256, found.factor)
    assert after == pytest.approx(before / factor, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_calibration_by_real_passes_finds_nothing_to_correct(
    family: str, saved: Saved
) -> None:
    path, config, shape = saved[family]
    with FakeDevice(2**40).resident(path, config) as metered:
        found = calibrate(shape, "float32", metered, longest=256)
    assert found.factor == 1.0
    assert 0.8 * found.reckoned_bytes <= found.measured_bytes
    assert not metered.passes
