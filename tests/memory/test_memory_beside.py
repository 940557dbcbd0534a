"""SPLADE and rerankers on devices of any size: the plan, real passes, and the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beside_parts import (
    DTYPES,
    RERANK_FAMILIES,
    SPLADE_FAMILIES,
    random_texts,
    save_reranker,
    save_splade,
    splade_on_card,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_parts import MEDIUM, TINY, WINDOW

from processor.ultimate_embedder.config import (
    GPU_CONTEXT_BYTES,
    GPU_MARGIN_BYTES,
    RerankingConfig,
    SparseModelConfig,
)
from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.encoders.live_bytes import Meter
from processor.ultimate_embedder.encoders.passes import DeviceUse
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.memory_cost import (
    BUFFER_BYTES,
    Architecture,
    activation_bytes,
    padded_length,
    planned_peak_bytes,
    weight_bytes,
)
from processor.ultimate_embedder.memory_plan import ModelKind
from processor.ultimate_embedder.memory_room import PlannedRoom
from processor.ultimate_embedder.records import SparseVector
from processor.ultimate_embedder.stages.cross_encoder import CrossEncoderBatchExecutor
from processor.ultimate_embedder.testing import FakeDevice

BESIDE = GPU_CONTEXT_BYTES + GPU_MARGIN_BYTES
CARD = "cuda:0"
QUERY = "word1 word2"
PAIR = 3 + 2  # tokens of a pair beside those of its document
SAME = 1e-4
SHAPES = ((1, 512), (6, 40), (16, 8))
NEAR, INTEGERS = 1.2, 64
LENGTHS = st.lists(
    st.one_of(st.integers(1, 40), st.integers(1, 300)), min_size=1, max_size=12
)


@dataclass(frozen=True)
class Saved:
    splade: dict[str, tuple[SparseModelConfig, Architecture]]
    rerank: dict[str, tuple[RerankingConfig, Architecture]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    root = tmp_path_factory.mktemp("beside")
    splade = {name: save_splade(root / f"s-{name}", name) for name in SPLADE_FAMILIES}
    rerank = {name: save_reranker(root / f"r-{name}", name) for name in RERANK_FAMILIES}
    return Saved(
        {
            name: (found, read_architecture(Path(found.hf_model_id), "masked-lm"))
            for name, found in splade.items()
        },
        {
            name: (found, read_architecture(Path(found.hf_model_id), "classifier"))
            for name, found in rerank.items()
        },
    )


def near(shape: Architecture, dtype: str, measure: Callable[[int, int], int]) -> None:
    """Compare what is reckoned with what passes were counted to take."""
    for rows, length in SHAPES:
        measured = measure(rows, length)
        reckoned = activation_bytes(shape, dtype, rows=rows, length=length)
        most = NEAR * measured + INTEGERS * rows * length
        assert measured <= reckoned <= most, (rows, length)


def weights_are_near(shape: Architecture, dtype: str, meter: Meter) -> None:
    most = 1.03 * meter.weight_bytes + BUFFER_BYTES
    assert meter.weight_bytes <= weight_bytes(shape, dtype) <= most


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SPLADE_FAMILIES)
def test_what_is_reckoned_for_splade_is_never_below_the_measured_and_near_it(
    family: str, dtype: str, tmp_path: Path
) -> None:
    config = save_splade(tmp_path, family, MEDIUM, vocabulary=400)
    shape = read_architecture(tmp_path, "masked-lm")
    encoder = FakeDevice(2**40).load_splade(splade_on_card(config, dtype))
    near(shape, dtype, encoder.pass_probe().measure)
    weights_are_near(shape, dtype, encoder.meter)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", RERANK_FAMILIES)
def test_what_is_reckoned_for_pairs_is_never_below_the_measured_and_near_it(
    family: str, dtype: str, tmp_path: Path
) -> None:
    config = save_reranker(tmp_path, family, MEDIUM)
    shape = read_architecture(tmp_path, "classifier")
    scorer = FakeDevice(2**40).load_scorer(config, dtype)

    def measure(rows: int, length: int) -> int:
        # One pair is shorter: without padding there would be no mask.
        words = [length - PAIR] * (rows - 1) + [length - PAIR - 1]
        pairs = [(QUERY, text) for text in random_texts(words)]
        before = scorer.meter.peak_bytes = scorer.meter.weight_bytes
        scorer.score(pairs)
        return scorer.meter.peak_bytes - before

    near(shape, dtype, measure)
    weights_are_near(shape, dtype, scorer.meter)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vocabulary_that_dwarfs_its_model_is_reckoned_too(
    dtype: str, tmp_path: Path
) -> None:
    config = save_splade(tmp_path, "bert", TINY, vocabulary=40_000)
    shape = read_architecture(tmp_path, "masked-lm")
    encoder = FakeDevice(2**40).load_splade(splade_on_card(config, dtype))
    for rows in (1, 6):
        measured = encoder.pass_probe().measure(rows, WINDOW)
        reckoned = activation_bytes(shape, dtype, rows=rows, length=WINDOW)
        assert measured <= reckoned <= 1.3 * measured
    assert measured < 2**26 < 4 * 40_000 * WINDOW


def room_of(
    kind: ModelKind, name: str, shape: Architecture, longest: int, spare: int
) -> PlannedRoom:
    """Return a room that holds one text of `longest`, and `spare` bytes more."""
    least = planned_peak_bytes(shape, "float32", rows=1, length=longest)
    return PlannedRoom(
        model=name,
        kind=kind,
        architecture=shape,
        dtype="float32",
        cap_bytes=GPU_MARGIN_BYTES + least + spare,
    )


def use_of(room: PlannedRoom) -> DeviceUse:
    return DeviceUse(model=room.model, device=CARD, room=room, cap_bytes=room.cap_bytes)


def within_plan(meter: Meter, room: PlannedRoom, texts: int) -> None:
    """Every pass is planned to fit, did fit, and each text was in one."""
    assert room.architecture is not None
    assert sum(rows for rows, _ in meter.passes) == texts
    for rows, taken in meter.passes:
        assert taken <= room.positions(taken // rows)
        planned = planned_peak_bytes(
            room.architecture, room.dtype, rows=rows, length=taken // rows
        )
        assert planned + GPU_MARGIN_BYTES <= room.cap_bytes
    assert meter.peak_bytes <= room.cap_bytes - BESIDE


def agree(found: Sequence[SparseVector], other: Sequence[SparseVector]) -> None:
    for one, two in zip(found, other, strict=True):
        values = np.zeros((2, 100), dtype=np.float32)
        values[0, one.indices], values[1, two.indices] = one.values, two.values
        assert np.abs(values[0] - values[1]).max() <= SAME


@given(
    family=st.sampled_from(SPLADE_FAMILIES),
    lengths=LENGTHS,
    spare=st.integers(0, 3_000_000),
)
@settings(max_examples=8, deadline=None)
def test_splade_passes_stay_under_any_cap_and_each_text_is_done_once(
    family: str, lengths: list[int], spare: int, saved: Saved
) -> None:
    config, shape = saved.splade[family]
    longest = padded_length(max(lengths) + 2, WINDOW)
    room = room_of("sparse", config.name, shape, longest, spare)
    device = FakeDevice(room.cap_bytes - BESIDE)
    encoder = device.load_splade(splade_on_card(config), use_of(room))
    texts = random_texts(lengths)
    batches = list(encoder.batches(texts))
    within_plan(encoder.meter, room, len(texts))
    assert sum(batch.oom_retries for batch in batches) == 0
    places = [place for batch in batches for place in batch.places]
    assert sorted(places) == list(range(len(texts)))
    alone = [encoder.encode_query(text) for text in texts]
    agree(encoder.encode_documents(texts), alone)


@given(
    family=st.sampled_from(RERANK_FAMILIES),
    lengths=LENGTHS,
    spare=st.integers(0, 3_000_000),
    most_pairs=st.integers(1, 16),
)
@settings(max_examples=8, deadline=None)
def test_pairs_stay_under_any_cap_and_each_is_scored_once(
    family: str, lengths: list[int], spare: int, most_pairs: int, saved: Saved
) -> None:
    config, shape = saved.rerank[family]
    longest = padded_length(max(lengths) + PAIR, WINDOW)
    room = room_of("rerank", config.name, shape, longest, spare)
    device = FakeDevice(room.cap_bytes - BESIDE)
    scorer = device.load_scorer(config)
    executor = CrossEncoderBatchExecutor(scorer, most_pairs, use=use_of(room))
    texts = random_texts(lengths)
    told: list[object] = []
    scored = executor.score(QUERY, texts, tell=told.append)
    within_plan(scorer.meter, room, len(texts))
    assert not told
    assert max(rows for rows, _ in scorer.meter.passes) <= most_pairs
    alone = np.concatenate([scorer.score([(QUERY, text)]) for text in texts])
    assert np.abs(scored.scores - alone).max() <= SAME


def unlucky(run: Callable[..., Any], wrong: set[int]) -> Callable[[Any], Any]:
    """Return a call that fails at chosen numbers, if it is for several texts."""
    calls = iter(range(1, 10_000))

    def call(texts: Sequence[Any]) -> Any:
        if next(calls) in wrong and len(texts) > 1:
            raise DeviceOutOfMemory("taken by another program")
        return run(texts)

    return call


@given(
    lengths=LENGTHS,
    wrong=st.sets(st.integers(1, 20), max_size=10),
    room=st.integers(0, 2_000_000),
)
@settings(max_examples=8, deadline=None)
def test_splade_on_a_smaller_card_than_planned_loses_no_text_and_no_order(
    lengths: list[int], wrong: set[int], room: int, saved: Saved
) -> None:
    config, shape = saved.splade["bert"]
    longest = padded_length(max(lengths) + 2, WINDOW)
    planned = room_of("sparse", config.name, shape, longest, 50_000_000)
    least = room_of("sparse", config.name, shape, longest, room)
    device = FakeDevice(least.cap_bytes - BESIDE)
    encoder = device.load_splade(splade_on_card(config), use_of(planned))
    texts = random_texts(lengths)
    alone = [encoder.encode_query(text) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "forward", unlucky(encoder.forward, wrong))
        told: list[int] = []
        before = len(encoder.meter.passes)
        batches = list(encoder.batches(texts, tell=told.append))
    assert sum(rows for rows, _ in encoder.meter.passes[before:]) == len(texts)
    assert sum(batch.oom_retries for batch in batches) == len(told)
    found = {
        place: vector
        for batch in batches
        for place, vector in zip(batch.places, batch.vectors, strict=True)
    }
    agree([found[place] for place in range(len(texts))], alone)
    assert device.peak_bytes <= device.total_bytes


@given(
    lengths=LENGTHS,
    wrong=st.sets(st.integers(1, 20), max_size=10),
    room=st.integers(0, 2_000_000),
)
@settings(max_examples=8, deadline=None)
def test_pairs_on_a_smaller_card_than_planned_keep_their_scores(
    lengths: list[int], wrong: set[int], room: int, saved: Saved
) -> None:
    config, shape = saved.rerank["xlm-roberta"]
    longest = padded_length(max(lengths) + PAIR, WINDOW)
    planned = room_of("rerank", config.name, shape, longest, 50_000_000)
    least = room_of("rerank", config.name, shape, longest, room)
    device = FakeDevice(least.cap_bytes - BESIDE)
    scorer = device.load_scorer(config)
    texts = random_texts(lengths)
    alone = np.concatenate([scorer.score([(QUERY, text)]) for text in texts])
    before = len(scorer.meter.passes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "score", unlucky(scorer.score, wrong))
        executor = CrossEncoderBatchExecutor(scorer, 16, use=use_of(planned))
        scored = executor.score(QUERY, texts)
    assert sum(rows for rows, _ in scorer.meter.passes[before:]) == len(texts)
    assert np.abs(scored.scores - alone).max() <= SAME
    assert device.peak_bytes <= device.total_bytes


def test_a_text_planned_not_to_fit_is_refused_by_splade_before_it_is_tried(
    saved: Saved,
) -> None:
    config, shape = saved.splade["bert"]
    room = room_of("sparse", config.name, shape, 64, 0)
    encoder = FakeDevice(2**40).load_splade(splade_on_card(config), use_of(room))
    with pytest.raises(DeviceOutOfMemory) as caught:
        encoder.encode_documents(random_texts([10, 300, 20]))
    said = str(caught.value)
    assert caught.value.row == 1
    assert "Model bert-splade with one text of 304 tokens needs" in said
    assert f"({room.cap_bytes} bytes)" in said
    assert "--gpu-memory-cap" in said and "--sparse-device cpu" in said
    assert all(taken <= 64 for _, taken in encoder.meter.passes)


def test_a_pair_planned_not_to_fit_is_refused_before_it_is_tried(saved: Saved) -> None:
    config, shape = saved.rerank["bert"]
    room = room_of("rerank", config.name, shape, 64, 0)
    scorer = FakeDevice(2**40).load_scorer(config)
    executor = CrossEncoderBatchExecutor(scorer, 8, use=use_of(room))
    with pytest.raises(DeviceOutOfMemory) as caught:
        executor.score(QUERY, random_texts([10, 300, 20]))
    said = str(caught.value)
    assert caught.value.row == 1
    assert "Model bert-reranker with one pair of 312 tokens needs" in said
    assert f"({room.cap_bytes} bytes)" in said
    assert "--gpu-memory-cap" in said and "--rerank-fallback" in said
    assert not scorer.meter.passes


def test_a_measured_pass_corrects_the_room_upwards_alone(saved: Saved) -> None:
    config, shape = saved.splade["bert"]
    room = room_of("sparse", config.name, shape, WINDOW, 5_000_000)
    encoder = FakeDevice(2**40).load_splade(splade_on_card(config), use_of(room))
    encoder.calibrate()
    assert encoder.use.room == room
    assert encoder.use.calibration is not None
    measured = encoder.use.calibration.measured_bytes
    assert 0 < measured <= encoder.use.calibration.reckoned_bytes

    class Hungry:
        def measure(self, rows: int, length: int) -> int:
            return 3 * encoder.pass_probe().measure(rows, length)

        def pass_probe(self) -> Hungry:
            return self

    corrected = encoder.use.calibrated(Hungry(), WINDOW)
    assert corrected.room is not None
    assert corrected.room.positions(64) <= room.positions(64) / 2
