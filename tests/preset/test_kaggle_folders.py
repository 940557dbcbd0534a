"""A Kaggle notebook's folders, stood elsewhere: data sets in, bundles out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.intake.chunks import find_collections
from processor.ultimate_embedder.settings import resolve


def chunk_file(folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / "a_chunks.json"
    path.write_text(json.dumps([{"text": "One chunk."}]), encoding="utf-8")


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "kaggle"
    (root / "input").mkdir(parents=True)
    (root / "working").mkdir()
    monkeypatch.setenv("EMBEDDER_KAGGLE_ROOT", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def test_collections_are_found_in_each_data_set_and_in_its_chunk_folders(
    kaggle: Path,
) -> None:
    data = kaggle / "input"
    chunk_file(data / "first" / "Chunked" / "alpha" / "docs")
    chunk_file(data / "first" / "notes" / "not_looked_at")
    chunk_file(data / "second" / "output" / "beta")
    chunk_file(data / "third" / "gamma")
    (data / "weights").mkdir()
    names = [folder.name for folder in find_collections(data)]
    assert names == ["alpha", "beta", "gamma"]


def test_one_name_in_two_data_sets_is_refused_with_both_places(kaggle: Path) -> None:
    chunk_file(kaggle / "input" / "first" / "alpha")
    chunk_file(kaggle / "input" / "second" / "Chunked" / "alpha")
    with pytest.raises(UsageError, match=r"'alpha': .*first.*second"):
        find_collections(kaggle / "input")


def test_another_folder_is_read_as_a_plain_one(kaggle: Path) -> None:
    chunk_file(kaggle / "elsewhere" / "alpha" / "Chunked" / "beta")
    (folder,) = find_collections(kaggle / "elsewhere")
    assert folder.name == "alpha"


def test_the_folders_that_the_variable_names_decide_profile_and_places(
    kaggle: Path,
) -> None:
    settings = resolve({})
    assert settings.pipeline.profile == "kaggle-t4x2"
    assert settings.pipeline.chunked_dir == kaggle / "input"
    assert settings.pipeline.output_dir == kaggle / "working"
    assert settings.notes == ()
    (kaggle / "working").rmdir()
    assert resolve({}).pipeline.profile == "embedded"
