"""On a GPU queries share their batches; nobody's scores, steps or time are mixed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.passes import DeviceUse
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.memory_plan import Calibration
from processor.ultimate_embedder.records import (
    Chunk,
    Float32Array,
    Query,
    RankedList,
)
from processor.ultimate_embedder.stages.cross_encoder import (
    CrossEncoderBatchExecutor,
)
from processor.ultimate_embedder.stages.fusion import QueryRankings
from processor.ultimate_embedder.stages.rerank import RerankPipeline, RerankResult
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    Event,
    StageFinished,
)

CAP = 4
CANDIDATES = 6
TEXTS = [f"a {'b ' * (n % 9)}{'c ' * (n % 4)}".strip() for n in range(40)]


class Device:
    """Counts shared words; has no room for a pair of more than `most` words."""

    name = "tiny"

    def __init__(self, device: str, most: int = 1000) -> None:
        self.device = device
        self.most = most
        self.batches: list[list[tuple[str, str]]] = []

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        return [len(query.split()) + len(text.split()) for query, text in pairs]

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        return max(lengths) * len(lengths)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        if max(self.pair_lengths(pairs)) > self.most:
            raise DeviceOutOfMemory("Full.")
        self.batches.append(list(pairs))
        return np.array([shared(*pair) for pair in pairs], dtype=np.float32)


def shared(query: str, text: str) -> float:
    return sum(word in query.split() for word in text.split()) - len(text) / 64


class Texts:
    def chunk(self, row: int) -> Chunk:
        return Chunk(f"c:s:f.md:chunk:{row}", "c", "s", "f.md", row, TEXTS[row])


def rankings(number: int, text: str) -> QueryRankings:
    rows = (np.arange(CANDIDATES + 2) * (number + 1)) % len(TEXTS)
    fused = RankedList(np.unique(rows), np.linspace(1, 0.1, len(np.unique(rows))))
    query = Query(f"q{number}", text)
    return QueryRankings(query=query, dense=fused, sparse=None, fused=fused)


def rerank(
    scorer: Device,
    queries: Sequence[QueryRankings],
    *,
    timeout: float | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    candidates: int = CANDIDATES,
) -> tuple[RerankResult, list[BatchFinished]]:
    events: list[Event] = []
    config = RerankingConfig(
        name="tiny", hf_model_id="x", candidates=candidates, top_k=2, batch_cap=CAP
    )
    pipeline = RerankPipeline(
        CrossEncoderBatchExecutor(scorer, CAP, clock=clock),
        config,
        events.append,
        "run-1",
        timeout_seconds=timeout,
    )
    result = pipeline.run(queries, Texts(), "c")
    return result, [event for event in events if isinstance(event, BatchFinished)]


ASKED = [rankings(n, "a b" if n % 2 else "c") for n in range(50)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c a", "b b c"]), max_size=60))
def test_queries_together_have_the_records_of_queries_alone(texts: list[str]) -> None:
    queries = [rankings(number, text) for number, text in enumerate(texts)]
    together, tellings = rerank(Device("cuda:0"), queries)
    alone, apart = rerank(Device("cpu"), queries)
    assert list(together.records) == list(alone.records)
    assert together.candidates == alone.candidates
    assert [one.tokens for one in tellings] == [one.tokens for one in apart]


def test_pairs_of_like_length_share_a_batch_whoever_asked() -> None:
    gpu, cpu = Device("cuda:0"), Device("cpu")
    (_, told), (_, apart) = rerank(gpu, ASKED), rerank(cpu, ASKED)
    assert any(len({query for query, _ in batch}) > 1 for batch in gpu.batches)
    assert all(len({query for query, _ in batch}) == 1 for batch in cpu.batches)
    assert all(len(batch) <= CAP for batch in gpu.batches)
    assert len(told) == len(ASKED)  # one for each query all the same
    padded = [gpu.padded_tokens(gpu.pair_lengths(batch)) for batch in gpu.batches]
    assert sum(one.padded_tokens for one in told) == pytest.approx(sum(padded), rel=0.1)
    assert sum(padded) < sum(one.padded_tokens for one in apart)


class SlowDevice(Device):
    """Takes a while for each position that is computed."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        time.sleep(self.padded_tokens(self.pair_lengths(pairs)) / 10_000)
        return super().score(pairs)


def test_queries_share_the_time_by_what_was_computed_for_them() -> None:
    few = ASKED[:12]
    begun = time.perf_counter()
    result, told = rerank(SlowDevice("cuda:0"), few)
    wall = time.perf_counter() - begun
    latencies = [header.latency_ms / 1000 for header in result.headers]
    assert latencies == pytest.approx([one.seconds for one in told])
    asleep = sum(one.padded_tokens for one in told) / 10_000
    assert asleep * 0.9 <= sum(latencies) <= wall
    a_position = [one.seconds / one.padded_tokens for one in told]
    assert a_position == pytest.approx([a_position[0]] * len(few))
    assert max(latencies) > min(latencies)


def test_a_query_alone_has_the_time_that_its_own_pairs_took() -> None:
    class Slow(Device):
        def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
            time.sleep(0.01)
            return super().score(pairs)

    result, _ = rerank(Slow("cpu"), ASKED[:3])
    assert all(header.latency_ms >= 10 for header in result.headers)


def test_the_device_and_what_it_held_are_told() -> None:
    use = DeviceUse(
        model="tiny",
        device="cuda:1",
        used_bytes=lambda: 3 << 30,
        calibration=Calibration(
            rows=2, length=256, reckoned_bytes=100, measured_bytes=120
        ),
    )
    executor = CrossEncoderBatchExecutor(Device("cuda:1"), CAP, use=use)
    events: list[Event] = []
    config = RerankingConfig(
        name="tiny", hf_model_id="x", candidates=CANDIDATES, top_k=2
    )
    pipeline = RerankPipeline(executor, config, events.append, "run-1")
    result = pipeline.run(ASKED[:2], Texts(), "c")
    (finished,) = [event for event in events if isinstance(event, StageFinished)]
    assert (finished.device, finished.gpu_peak_bytes) == ("cuda:1", 3 << 30)
    assert (result.device, result.calibration) == ("cuda:1", use.calibration)
    assert [header.gpu_peak_gb for header in result.headers] == [3.0, 3.0]


def test_a_query_with_more_candidates_than_batches_hold_stands_alone() -> None:
    few, _ = rerank(Device("cuda:0"), ASKED[:3], candidates=CAP * 1000)
    alone, _ = rerank(Device("cpu"), ASKED[:3], candidates=CAP * 1000)
    assert list(few.records) == list(alone.records)
    assert len(few.queries) == 3


def test_a_pair_without_room_costs_its_own_query_alone_some_candidates() -> None:
    few = ASKED[:8]
    longest = max(
        sum(Device("cpu").pair_lengths([(one.query.text, TEXTS[row])]))
        for one in few
        for row in one.fused.rows[:CANDIDATES].tolist()
    )
    result, told = rerank(Device("cuda:0", most=longest - 1), few)
    whole, _ = rerank(Device("cpu"), few)
    assert len(told) == len(few)
    fewer = [one.candidates < CANDIDATES for one in result.queries]
    assert any(fewer)
    assert not all(fewer)
    pairs = zip(result.records, whole.records, fewer, strict=True)
    assert all(mine == other for mine, other, less in pairs if not less)
    assert result.fallback_reason is not None
    assert "candidates" in result.fallback_reason


def test_with_a_time_limit_queries_that_were_done_stay_done() -> None:
    ticks = iter(range(1000))
    result, _ = rerank(
        Device("cuda:0"), ASKED, timeout=9.5, clock=lambda: float(next(ticks))
    )
    assert 0 < len(result.queries) < len(ASKED)
    assert result.not_reranked == len(ASKED) - len(result.queries)
    assert result.fallback_reason == "timeout"
