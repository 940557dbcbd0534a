"""Rerank on devices that are too small: what it does, and what it says it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.budget import GOOD_CALLS_TO_GROW
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.records import Chunk, Float32Array, Query, RankedList
from processor.ultimate_embedder.stages.cross_encoder import (
    CrossEncoderBatchExecutor,
    SmallerBatches,
)
from processor.ultimate_embedder.stages.fusion import QueryRankings
from processor.ultimate_embedder.stages.rerank import RerankPipeline, RerankResult
from processor.ultimate_embedder.stages.rerank_fitting import Fallback
from processor.ultimate_embedder.telemetry.events import (
    Event,
    FallbackUsed,
    MemoryRetried,
    StageFinished,
)

Fails = Callable[[int, Sequence[int]], bool]
"""Told a call's number and the lengths of its pairs, says whether memory fails."""


class SmallDevice:
    """Counts the words that the pair shares; fails as told."""

    device = "cuda:0"

    def __init__(self, fails: Fails, name: str = "large") -> None:
        self.fails = fails
        self.name = name
        self.calls: list[int] = []

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        return [len(query.split()) + len(text.split()) for query, text in pairs]

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        return max(lengths) * len(lengths)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        self.calls.append(len(pairs))
        if self.fails(len(self.calls), self.pair_lengths(pairs)):
            raise DeviceOutOfMemory("Full.")
        return np.array([shared(*pair) for pair in pairs], dtype=np.float32)


def shared(query: str, text: str) -> float:
    words = text.split()
    return sum(word in query.split() for word in words) - len(words) / 64


def more_pairs_than(most: int) -> Fails:
    return lambda _, lengths: len(lengths) > most


def longer_than(most: int) -> Fails:
    return lambda _, lengths: max(lengths) > most


def never(_: int, __: Sequence[int]) -> bool:
    return False


documents = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9).map(" ".join),
    max_size=24,
)


@given(documents, st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_on_a_device_of_any_size_each_document_gets_its_own_score(
    texts: list[str], cap: int, room: int
) -> None:
    scorer = SmallDevice(more_pairs_than(room))
    told: list[SmallerBatches] = []
    executor = CrossEncoderBatchExecutor(scorer, cap)
    scored = executor.score("a b", texts, tell=told.append)
    assert scored.scores.tolist() == [shared("a b", text) for text in texts]
    assert max(scorer.calls, default=0) <= cap
    assert scored.batch_size <= max(1, min(cap, room))
    assert all(one.pairs <= cap // 2 for one in told)


@given(documents, st.integers(1, 9), st.sets(st.integers(1, 30), max_size=10))
@settings(max_examples=100, deadline=None)
def test_failures_at_random_calls_change_no_score(
    texts: list[str], cap: int, wrong: set[int]
) -> None:
    scorer = SmallDevice(lambda call, lengths: call in wrong and len(lengths) > 1)
    scored = CrossEncoderBatchExecutor(scorer, cap).score("a b", texts)
    assert scored.scores.tolist() == [shared("a b", text) for text in texts]


def test_batches_stay_small_for_the_next_query_and_grow_back_after_good_ones() -> None:
    scorer = SmallDevice(lambda call, _: call == 1)
    executor = CrossEncoderBatchExecutor(scorer, 8)
    assert executor.score("a", ["b"] * 8).batch_size == 4
    assert executor.score("a", ["b"] * 8).batch_size == 4
    executor.score("a", ["b"] * 4 * GOOD_CALLS_TO_GROW * 9)
    assert executor.score("a", ["b"] * 8).batch_size == 8


class Texts:
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def chunk(self, row: int) -> Chunk:
        return Chunk(f"c:s:f.md:chunk:{row}", "c", "s", "f.md", row, self._texts[row])


TEXTS = [*(f"a {'b ' * n}" for n in range(16)), "a " * 40]


def rankings(first: int) -> QueryRankings:
    """Return a query whose candidates are all texts, beginning with `first`."""
    rows = np.roll(np.arange(len(TEXTS)), -first)
    fused = RankedList(rows, np.linspace(1, 0.1, len(rows)))
    return QueryRankings(query=Query("q", "a"), dense=fused, sparse=None, fused=fused)


def rerank(
    scorer: SmallDevice,
    queries: Sequence[QueryRankings],
    smaller: SmallDevice | None = None,
    *,
    batch_cap: int = 8,
    timeout: float | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[RerankResult, list[Event]]:
    events: list[Event] = []
    config = RerankingConfig(
        name="large", hf_model_id="x", candidates=16, top_k=4, batch_cap=batch_cap
    )
    lesser = RerankingConfig(
        name="small", hf_model_id="y", candidates=16, top_k=4, batch_cap=batch_cap
    )
    fallback = Fallback()
    if smaller is not None:
        fallback = Fallback(
            lambda: (CrossEncoderBatchExecutor(smaller, batch_cap), lesser)
        )
    pipeline = RerankPipeline(
        CrossEncoderBatchExecutor(scorer, batch_cap, clock=clock),
        config,
        events.append,
        "run-1",
        timeout_seconds=timeout,
        fallback=fallback,
    )
    return pipeline.run(queries, Texts(TEXTS), "c"), events


def reasons(events: Sequence[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, FallbackUsed)]


def test_smaller_batches_give_the_same_file_and_the_header_tells_their_size() -> None:
    undisturbed, _ = rerank(SmallDevice(never), [rankings(0)] * 2)
    result, events = rerank(SmallDevice(more_pairs_than(2)), [rankings(0)] * 2)
    assert list(result.records) == list(undisturbed.records)
    assert [header.batch_size for header in undisturbed.headers] == [8, 8]
    assert [header.batch_size for header in result.headers] == [2, 2]
    steps = ["out of memory: batches of 4 pairs", "out of memory: batches of 2 pairs"]
    assert reasons(events) == steps
    assert result.fallback_reason == "; ".join(steps)
    retried = [event for event in events if isinstance(event, MemoryRetried)]
    assert [(e.stage, e.model, e.device) for e in retried] == [
        ("rerank", "large", "cuda:0")
    ] * 2
    assert result.oom_retries == 2
    (finished,) = [event for event in events if isinstance(event, StageFinished)]
    assert finished.fallback_reason == result.fallback_reason


def test_with_one_pair_too_large_fewer_candidates_are_read_down_to_those_kept() -> None:
    # The long text is the sixth of the candidates: of the first 4 none is too long.
    result, events = rerank(SmallDevice(longer_than(30)), [rankings(11)])
    assert result.queries[0].candidates == 4
    assert result.candidates == 4
    assert sorted(result.queries[0].ranking.rows.tolist()) == [11, 12, 13, 14]
    assert reasons(events)[-2:] == [
        "out of memory: 8 candidates",
        "out of memory: 4 candidates",
    ]
    assert result.queries_by_model == {"large": 1}


def test_fewer_candidates_are_for_one_query_alone() -> None:
    result, _ = rerank(SmallDevice(longer_than(30)), [rankings(11), rankings(0)])
    assert [query.candidates for query in result.queries] == [4, 16]


def test_where_even_those_kept_do_not_fit_the_smaller_model_takes_over() -> None:
    smaller = SmallDevice(never, "small")
    undisturbed, _ = rerank(SmallDevice(never), [rankings(0), rankings(16)])
    result, events = rerank(
        SmallDevice(longer_than(30)), [rankings(0), rankings(16), rankings(0)], smaller
    )
    assert result.queries_by_model == {"large": 1, "small": 2}
    assert [query.candidates for query in result.queries] == [16, 16, 16]
    assert list(result.records)[:2] == list(undisturbed.records)
    assert reasons(events)[-1] == "out of memory: model small"
    assert result.fallback_reason is not None
    assert result.fallback_reason.endswith("out of memory: model small")


def test_without_a_smaller_model_the_run_stops_and_names_the_chunk() -> None:
    with pytest.raises(
        DeviceOutOfMemory,
        match=r"Reranker large ran out of memory on cuda:0 with one pair of 41 tokens "
        r"alone\. Its document is chunk c:s:f\.md:chunk:16\..*--rerank-fallback",
    ) as caught:
        rerank(SmallDevice(longer_than(30)), [rankings(16)])
    assert caught.value.exit_code == 3


def test_the_smaller_model_steps_down_too_and_is_the_last() -> None:
    smaller = SmallDevice(longer_than(30), "small")
    with pytest.raises(DeviceOutOfMemory, match="Reranker small ran out of memory"):
        rerank(SmallDevice(longer_than(30)), [rankings(16)], smaller)


def test_time_runs_for_steps_down_too() -> None:
    ticks = iter(range(1000))
    smaller = SmallDevice(never, "small")
    result, events = rerank(
        SmallDevice(longer_than(30)),
        [rankings(16)],
        smaller,
        timeout=22.0,
        clock=lambda: float(next(ticks)),
    )
    assert result.queries == ()
    assert result.not_reranked == 1
    assert reasons(events)[-1] == "timeout"
    assert result.fallback_reason is not None
    assert result.fallback_reason.endswith("; timeout")
    assert smaller.calls == [8]
