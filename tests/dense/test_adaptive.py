"""Batches that do not fit are split; rows keep their places; budgets grow carefully."""

from __future__ import annotations

import numpy as np
import pytest
from adaptive_parts import FailingEncoder, room_for
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.encoders.adaptive import AdaptiveEncoder
from processor.ultimate_embedder.encoders.budget import GOOD_CALLS_TO_GROW, Budget
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.records import UInt32Array
from processor.ultimate_embedder.testing import HashingEncoder

WIDTH = 8


def ids_of(texts: list[list[int]]) -> list[UInt32Array]:
    return [np.array(text, dtype=np.uint32) for text in texts]


corpora = st.lists(
    st.lists(st.integers(0, 999), min_size=1, max_size=12), min_size=1, max_size=24
)


@given(texts=corpora, budget=st.one_of(st.none(), st.integers(1, 80)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_failures_at_random_calls_change_no_row_and_none_is_done_twice(
    texts: list[list[int]], budget: int | None, data: st.DataObject
) -> None:
    ids = ids_of(texts)
    longest = max(map(len, texts))
    wrong = data.draw(st.sets(st.integers(1, 40), max_size=12), label="wrong calls")
    # One text alone always fits: what follows is about splitting.
    encoder = FailingEncoder(
        WIDTH, lambda call, asked: call in wrong and asked > longest
    )
    adaptive = AdaptiveEncoder(encoder, "m", budget_tokens=budget)
    with_attention = data.draw(st.booleans(), label="attention")
    plain = HashingEncoder(WIDTH)
    if with_attention:
        vectors, attention = adaptive.encode_with_attention(ids)
        for found, expected in zip(
            attention, plain.encode_with_attention(ids)[1], strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    else:
        vectors = adaptive.encode(ids)
    np.testing.assert_array_equal(vectors, plain.encode(ids))
    assert encoder.done == [tuple(text) for text in texts]
    if budget is not None:
        assert all(asked <= max(budget, longest) for asked in encoder.tried)
    cost = adaptive.take_cost()
    assert sum(cost.rows) == len(texts)
    assert len(cost.rows) + cost.oom_retries == len(encoder.tried)
    assert adaptive.take_cost().rows == ()


@given(texts=corpora, room=st.integers(1, 100), budget=st.integers(1, 300))
@settings(max_examples=150, deadline=None)
def test_a_device_of_any_size_that_holds_each_text_holds_all_of_them(
    texts: list[list[int]], room: int, budget: int
) -> None:
    ids = ids_of(texts)
    encoder = FailingEncoder(WIDTH, room_for(max(room, *map(len, texts), 1)))
    adaptive = AdaptiveEncoder(encoder, "m", budget_tokens=budget)
    for _ in range(3):
        np.testing.assert_array_equal(
            adaptive.encode(ids), HashingEncoder(WIDTH).encode(ids)
        )
    assert encoder.done == 3 * [tuple(text) for text in texts]


def test_a_pass_that_fails_is_done_again_in_halves() -> None:
    encoder = FailingEncoder(WIDTH, room_for(40))
    released: list[int] = []
    adaptive = AdaptiveEncoder(
        encoder, "m", budget_tokens=160, release=lambda: released.append(1)
    )
    adaptive.encode(ids_of([[1] * 10] * 16))
    assert encoder.tried == [160, 80, 40, 40, 40, 40]
    cost = adaptive.take_cost()
    assert (cost.rows, cost.oom_retries, cost.positions) == ((4, 4, 4, 4), 2, 160)
    assert len(released) == 2
    adaptive.encode(ids_of([[1] * 10] * 8))
    assert encoder.tried[6:] == [40, 40]


def test_a_text_that_does_not_fit_alone_is_named_with_its_place_and_bytes() -> None:
    encoder = FailingEncoder(WIDTH, room_for(11))
    adaptive = AdaptiveEncoder(
        encoder,
        "bge-m3",
        budget_tokens=64,
        used_bytes=lambda: 3 * 2**29,
        cap_bytes=2**30,
    )
    with pytest.raises(
        DeviceOutOfMemory,
        match=r"bge-m3 ran out of memory on cuda:0 with one text of 12 tokens alone, "
        r"1\.50 GiB \(1610612736 bytes\) used, the cap is 1\.00 GiB\..*"
        r" --gpu-memory-cap",
    ) as caught:
        adaptive.encode(ids_of([[1] * 5, [2] * 5, [3] * 12, [4] * 5]))
    assert caught.value.row == 2
    assert caught.value.exit_code == 3
    assert encoder.done == [(1,) * 5, (2,) * 5]


def test_without_a_budget_or_a_failure_there_is_one_pass() -> None:
    encoder = FailingEncoder(WIDTH, lambda *_: False)
    AdaptiveEncoder(encoder, "m").encode(ids_of([[1] * 50] * 30))
    assert encoder.tried == [1500]


def test_no_text_is_no_pass() -> None:
    encoder = FailingEncoder(WIDTH, lambda *_: False)
    assert AdaptiveEncoder(encoder, "m").encode([]).shape == (0, WIDTH)
    assert encoder.tried == []


def grown(budget: Budget, calls: int) -> int | None:
    for _ in range(calls):
        budget.succeeded(budget.now or 1)
    return budget.now


def test_a_budget_grows_by_an_eighth_after_sixteen_good_calls_and_to_its_start() -> (
    None
):
    budget = Budget(100)
    assert grown(budget, 200) == 100
    budget.failed(100)
    assert budget.now == 50
    assert grown(budget, GOOD_CALLS_TO_GROW - 1) == 50
    assert grown(budget, 1) == 56
    assert grown(budget, 1000) == 100


def test_a_budget_that_grew_too_far_goes_back_to_what_it_was() -> None:
    budget = Budget(100)
    budget.failed(100)
    assert grown(budget, GOOD_CALLS_TO_GROW) == 56
    budget.failed(55)
    assert budget.now == 50
    budget.failed(48)
    assert budget.now == 24


def test_calls_that_took_little_say_nothing_about_the_budget() -> None:
    budget = Budget(100)
    budget.failed(100)
    for _ in range(1000):
        budget.succeeded(25)
    assert budget.now == 50


@given(st.integers(2, 10_000), st.integers(1, 9_999))
@settings(max_examples=200, deadline=None)
def test_a_size_that_failed_twice_is_never_tried_again(most: int, room: int) -> None:
    budget = Budget(most)
    failed: list[int] = []
    for _ in range(2000):
        tried = budget.now or 1
        if tried > room and tried > 1:
            failed.append(tried)
            budget.failed(tried)
        else:
            budget.succeeded(tried)
        assert 1 <= (budget.now or 1) <= most
        if len(failed) > 1:
            assert (budget.now or 1) < sorted(failed)[1]
    assert len(failed) <= most.bit_length() + 20


@given(st.permutations(range(12)), st.integers(1, 5), st.integers(1, 12))
@settings(max_examples=10, deadline=None)
def test_on_a_cpu_splitting_changes_no_byte(
    encoder: AttentionEncoder,
    fitting_ids: list[UInt32Array],
    order: list[int],
    failures: int,
    rows: int,
) -> None:
    ids = [fitting_ids[place] for place in order[:rows]]

    class Failing:
        """The embedded model, which fails for a while on more than one text."""

        dimension, dtype, device = encoder.dimension, encoder.dtype, encoder.device
        padded_length = staticmethod(encoder.padded_length)
        left = failures

        def encode_with_attention(self, ids: list[UInt32Array]) -> object:
            if len(ids) > 1 and self.left:
                self.left -= 1
                raise DeviceOutOfMemory("The machine is full.")
            return encoder.encode_with_attention(ids)

    vectors, attention = AdaptiveEncoder(Failing(), "m").encode_with_attention(ids)  # type: ignore[arg-type]
    expected, weights = encoder.encode_with_attention(ids)
    assert vectors.tobytes() == expected.tobytes()
    assert [row.tobytes() for row in attention] == [row.tobytes() for row in weights]


@pytest.fixture(scope="module")
def fitting_ids(fitting: list[str], tokenizer: object) -> list[UInt32Array]:
    return list(tokenizer.encode(fitting[::6][:12], "document").ids)  # type: ignore[attr-defined]
