"""Weight differences: what is kept comes back, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from difference_parts import CARD, CHANGED, RESIDUAL, base, make_difference, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from processor.ultimate_embedder.encoders.weight_difference import (
    MAX_BYTES,
    SHIPPED,
    DifferenceCard,
    apply_difference,
    read_card,
    write_difference,
)
from processor.ultimate_embedder.errors import (
    ModelError,
    ModelMismatch,
    ModelNotAvailable,
)
from processor.ultimate_embedder.models.catalogue import rerank_model

SHA = "0" * 64
TINY = DifferenceCard(base_model="b", base_sha256=SHA, rank=2, max_tokens=8)
STATE = {
    "a.weight": np.arange(60, dtype=np.float32).reshape(6, 10) / 60,
    "a.bias": np.ones(6, dtype=np.float32),
    "b.weight": np.full((6, 1), 0.5, dtype=np.float32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_difference(tmp_path_factory.mktemp("difference"))


def test_a_difference_of_low_rank_comes_back_in_a_fraction_of_the_bytes(
    folder: Path,
) -> None:
    found = apply_difference(base(), CARD.base_sha256, folder)
    aim = trained()
    for name, value in aim.items():
        step = np.abs(value - base()[name]).max()
        assert np.abs(found[name] - value).max() <= 2e-3 * step, name
        assert found[name].dtype == np.float32
    whole = sum(aim[name].nbytes for name in CHANGED)
    assert (folder / "difference.safetensors").stat().st_size < whole / 50
    assert read_card(folder) == CARD


def test_parameters_that_did_not_change_are_not_stored(folder: Path) -> None:
    tensors = load_file(folder / "difference.safetensors")
    assert set(tensors) == {
        *(f"{name}.lora_{factor}" for name in CHANGED for factor in "AB"),
        "classifier.weight",
        "bert.encoder.layer.3.output.LayerNorm.bias",
    }
    assert tensors[CHANGED[1] + ".lora_A"].shape == (4, 384)
    assert tensors[CHANGED[1] + ".lora_B"].shape == (1536, 4)
    assert tensors[CHANGED[1] + ".lora_B"].dtype == np.float16


@given(
    arrays.arrays(np.float32, (6, 10), elements=st.floats(-1, 1, width=16)),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_a_shortened_matrix_is_the_nearest_of_its_rank(
    tmp_path_factory: pytest.TempPathFactory, step: np.ndarray[Any, Any], rank: int
) -> None:
    place = tmp_path_factory.mktemp("rank")
    card = TINY.model_copy(update={"rank": rank})
    aim = STATE | {"a.weight": STATE["a.weight"] + step}
    written = write_difference(place, STATE, aim, card)
    moved = apply_difference(STATE, SHA, place)["a.weight"] - STATE["a.weight"]
    step = aim["a.weight"] - STATE["a.weight"]
    values = np.linalg.svd(step.astype(np.float64), compute_uv=False)
    smallest = float(np.sqrt(np.square(values[rank:]).sum()))
    lost = float(np.linalg.norm(moved - step))
    assert lost == pytest.approx(smallest, abs=4e-3 * max(1.0, values[0]))
    if values[0]:
        assert written.error * np.linalg.norm(step) == pytest.approx(lost, abs=1e-4)


def test_without_a_rank_matrices_are_kept_whole_in_half_precision(
    tmp_path: Path,
) -> None:
    card = TINY.model_copy(update={"rank": None})
    aim = STATE | {"a.weight": STATE["a.weight"] * 3}
    assert write_difference(tmp_path, STATE, aim, card).parameters == 1
    found = apply_difference(STATE, SHA, tmp_path)
    assert found["a.weight"] == pytest.approx(aim["a.weight"], rel=1e-3)
    assert found["a.bias"].tolist() == STATE["a.bias"].tolist()


def test_writing_repeats_byte_for_byte(tmp_path: Path, folder: Path) -> None:
    again = make_difference(tmp_path / "again")
    for name in ("difference.safetensors", "config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_another_base_is_refused(folder: Path) -> None:
    with pytest.raises(ModelMismatch, match="SHA-256") as raised:
        apply_difference(base(), SHA, folder)
    assert RESIDUAL.hf_model_id in (raised.value.cure or "")


def half(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype=np.float16)


@pytest.mark.parametrize(
    ("tensors", "error", "words"),
    [
        ({"c.weight": half(6, 10)}, ModelMismatch, "which the base has not"),
        ({"a.weight": half(10, 6)}, ModelMismatch, "the base's is"),
        (
            {"a.weight.lora_A": half(2, 9), "a.weight.lora_B": half(6, 2)},
            ModelMismatch,
            "factors of",
        ),
        (
            {"a.weight.lora_A": half(2, 10), "a.weight.lora_B": half(6, 3)},
            ModelMismatch,
            "factors of",
        ),
        (
            {"a.bias.lora_A": half(2, 6), "a.bias.lora_B": half(6, 2)},
            ModelMismatch,
            "no matrices",
        ),
        ({"a.weight.lora_A": half(2, 10)}, ModelError, "one factor of two"),
        (
            {
                "a.weight": half(6, 10),
                "a.weight.lora_A": half(2, 10),
                "a.weight.lora_B": half(6, 2),
            },
            ModelError,
            "whole and as factors",
        ),
        ({"a.bias": half(6) * np.float16("nan")}, ModelError, "not finite"),
        ({"a.bias": np.ones(6, dtype=np.int64)}, ModelError, "int64"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path,
    tensors: dict[str, np.ndarray[Any, Any]],
    error: type[ModelError],
    words: str,
) -> None:
    write_difference(tmp_path, STATE, STATE, TINY)
    save_file(tensors, tmp_path / "difference.safetensors")
    with pytest.raises(error, match=words):
        apply_difference(STATE, SHA, tmp_path)


def test_a_folder_without_a_difference_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ModelNotAvailable) as raised:
        read_card(tmp_path / "nowhere")
    assert "--disable-rerank" in (raised.value.cure or "")


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("base_sha256"),
        lambda card: card.update(blend="rrf(k=60)"),
        lambda card: card.update(kind="adapter"),
        lambda card: card.update(max_tokens=0),
    ],
)
def test_a_card_that_says_too_little_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    write_difference(tmp_path, STATE, STATE, TINY)
    card = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    change(card)
    (tmp_path / "config.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json"):
        read_card(tmp_path)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    write_difference(tmp_path, STATE, STATE | {"a.bias": half(6) * 2}, TINY)
    path = tmp_path / "difference.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match="safetensors"):
        apply_difference(STATE, SHA, tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"a.bias": half(7)}, "shape"),
        ({"a.bias": half(6) * np.float16("inf")}, "not finite"),
        ({"c.bias": half(6)}, "differ in having"),
    ],
)
def test_what_cannot_be_a_difference_is_not_written(
    tmp_path: Path, changed: dict[str, np.ndarray[Any, Any]], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        write_difference(tmp_path / "new", STATE, STATE | changed, TINY)
    assert not (tmp_path / "new").exists()


def test_a_difference_over_the_limit_is_not_written(tmp_path: Path) -> None:
    aim = STATE | {"a.weight": STATE["a.weight"] + 1}
    with pytest.raises(ModelError, match="63 are allowed"):
        write_difference(tmp_path / "new", STATE, aim, TINY, max_bytes=63)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("shipped", sorted(SHIPPED.glob("*/difference.safetensors")))
def test_what_is_shipped_keeps_to_the_limit_and_is_what_the_registry_says(
    shipped: Path,
) -> None:
    assert shipped.stat().st_size <= MAX_BYTES == 12_000_000
    assert (shipped.parent / "README.md").is_file()
    card, known = read_card(shipped.parent), rerank_model(shipped.parent.name)
    assert card.blend == (known.blend and str(known.blend))
    assert (card.base_package, card.base_sha256, card.max_tokens) == (
        known.package,
        known.weights_sha256,
        known.max_tokens,
    )
