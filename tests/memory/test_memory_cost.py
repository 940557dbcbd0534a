"""What is reckoned for a pass, against the bytes that real passes were seen to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memory_parts import FAMILIES, MEDIUM, TINY, Size, random_ids, save_family

from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.encoders.live_bytes import LiveBytes
from processor.ultimate_embedder.encoders.metered import MeteredEncoder
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.memory_cost import (
    BUFFER_BYTES,
    Architecture,
    activation_bytes,
    reserved_bytes,
    token_budget,
    weight_bytes,
)

DTYPES = ("float32", "bfloat16", "float16")
SHAPES = ((1, 512), (6, 40), (3, 256), (16, 8))
NEAR = 1.2
"""The most that is reckoned for each byte measured, but for ids and masks."""
INTEGERS = 64
"""Bytes of one position that are reckoned for those; in a tiny model they count."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [TINY, MEDIUM], ids=["tiny", "medium"])
@pytest.mark.parametrize("family", FAMILIES)
def test_reckoned_bytes_are_never_below_the_measured_and_near_them(
    family: str, size: Size, dtype: str, tmp_path: Path
) -> None:
    config = save_family(tmp_path, family, size)
    shape = read_architecture(tmp_path)
    for rows, length in SHAPES:
        encoder = MeteredEncoder(tmp_path, config, dtype=dtype, total_bytes=2**40)
        # One text is shorter: without padding there would be no mask.
        encoder.encode(random_ids([length] * (rows - 1) + [length - 1]))
        measured = encoder.peak_bytes - encoder.weight_bytes
        reckoned = activation_bytes(shape, dtype, rows=rows, length=length)
        most = NEAR * measured + INTEGERS * rows * length
        assert measured <= reckoned <= most, (rows, length)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_that_are_loaded(
    family: str, dtype: str, tmp_path: Path
) -> None:
    config = save_family(tmp_path, family, MEDIUM)
    encoder = MeteredEncoder(tmp_path, config, dtype=dtype, total_bytes=2**40)
    reckoned = weight_bytes(read_architecture(tmp_path), dtype)
    most = 1.02 * encoder.weight_bytes + BUFFER_BYTES
    assert encoder.weight_bytes <= reckoned <= most


def test_attention_for_sparse_vectors_stays_within_what_is_reckoned(
    tmp_path: Path,
) -> None:
    config = save_family(tmp_path, "bert", MEDIUM)
    shape = read_architecture(tmp_path)
    for dtype in DTYPES:
        encoder = MeteredEncoder(tmp_path, config, dtype=dtype, total_bytes=2**40)
        encoder.encode_with_attention(random_ids([200, 200, 120]))
        measured = encoder.peak_bytes - encoder.weight_bytes
        assert measured <= activation_bytes(shape, dtype, rows=3, length=200)


def test_scores_that_are_materialised_cost_a_square_for_each_head(
    tmp_path: Path,
) -> None:
    save_family(tmp_path, "bert")
    shape = read_architecture(tmp_path)
    fused, whole = (
        activation_bytes(shape, "float32", rows=1, length=512, attention=kind)
        for kind in ("fused", "materialised")
    )
    assert whole - fused >= 2 * 4 * shape.heads * 512**2


def test_a_family_that_was_not_studied_is_reckoned_as_the_costliest(
    tmp_path: Path,
) -> None:
    for family in FAMILIES:
        save_family(tmp_path / family, family, MEDIUM)
        known = read_architecture(tmp_path / family)
        other = replace(known, family="something-new", gated=True)
        assert known.known
        assert not other.known
        for dtype in DTYPES:
            for rows, length in SHAPES:
                assert activation_bytes(
                    other, dtype, rows=rows, length=length
                ) >= activation_bytes(known, dtype, rows=rows, length=length)


def test_logits_of_a_vocabulary_never_take_more_than_their_slice() -> None:
    shape = Architecture(
        family="bert",
        layers=12,
        hidden=768,
        intermediate=3072,
        heads=12,
        kv_heads=12,
        head_size=64,
        vocabulary=30_522,
        gated=False,
        head="masked-lm",
        parameters=110_000_000,
    )
    bare = replace(shape, head="none")
    for rows in (1, 16, 64):
        more = activation_bytes(
            shape, "float32", rows=rows, length=512
        ) - activation_bytes(bare, "float32", rows=rows, length=512)
        assert 0 <= more <= 16 * 2**20
    wide = replace(shape, vocabulary=100_000)
    alone = activation_bytes(wide, "float32", rows=1, length=512)
    assert alone > activation_bytes(bare, "float32", rows=1, length=512)


@given(
    room=st.integers(0, 2**36),
    longest=st.integers(1, 32_768),
    rows=st.integers(1, 64),
    shorter=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    family=st.sampled_from(["bert", "modernbert", "qwen3", "something-new"]),
    factor=st.floats(1, 2),
)
def test_a_pass_within_its_budget_stays_in_the_room(
    room: int,
    longest: int,
    rows: int,
    shorter: float,
    dtype: str,
    family: str,
    factor: float,
) -> None:
    shape = Architecture(
        family=family,
        layers=24,
        hidden=1024,
        intermediate=4096,
        heads=16,
        kv_heads=8,
        head_size=64,
        vocabulary=250_002,
        gated=family != "bert",
        head="none",
        parameters=568_000_000,
    )
    budget = token_budget(shape, dtype, room_bytes=room, longest=longest, factor=factor)
    length = max(1, int(longest * shorter))
    if rows * length <= budget:
        taken = activation_bytes(shape, dtype, rows=rows, length=length)
        assert weight_bytes(shape, dtype) + reserved_bytes(taken, factor) <= room


def test_bytes_are_charged_while_tensors_live_and_given_back_after() -> None:
    meter = LiveBytes()
    with meter, torch.inference_mode():
        first = torch.zeros(1000)
        second = first * 2
        view = second[10:20]
        assert meter.now == 8000
        del second
        assert meter.now == 8000  # its view still holds it
        del view
        assert meter.now == 4000
        torch.nn.functional.linear(first[None], torch.zeros(10, 1000))
    assert meter.now == 4000
    assert meter.peak == 4000 + 40_000 + 40


def test_a_charge_beyond_the_limit_is_refused() -> None:
    with (
        pytest.raises(DeviceOutOfMemory, match="8000 bytes were asked for"),
        LiveBytes(limit_bytes=9000),
    ):
        held = torch.zeros(1000)
        torch.zeros(2000)
    assert held.numel() == 1000
