"""A local model is known by its content, read once and when it is asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from processor.ultimate_embedder.encoders import content_sums
from processor.ultimate_embedder.encoders.content_sums import file_sha256
from processor.ultimate_embedder.encoders.sources import ModelLocation, locate_model
from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager

WEIGHTS = "model.safetensors"
LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    put(folder / WEIGHTS, b"A" * 100)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content was read, files being as old as they say."""
    names: list[str] = []
    content = content_sums._read

    def note(path: Path) -> str:
        names.append(path.name)
        return content(path)

    monkeypatch.setattr(content_sums, "_read", note)
    monkeypatch.setattr(content_sums, "_COARSEST_CLOCK_NS", -(10**12))
    return names


def put(path: Path, content: bytes) -> None:
    """Write what bears one size and one time of writing, whatever it is."""
    path.write_bytes(content)
    os.utime(path, LONG_AGO)


def revision(folder: Path) -> str:
    return locate_model(str(folder), offline=True).revision


def test_other_weights_of_the_same_size_and_time_are_another_model(
    folder: Path,
) -> None:
    before = revision(folder)
    put(folder / WEIGHTS, b"B" * 100)
    assert revision(folder) != before
    put(folder / WEIGHTS, b"A" * 100)
    assert revision(folder) == before


def test_what_was_read_is_read_again_when_only_the_time_of_change_is_another(
    folder: Path, read: list[str]
) -> None:
    before = revision(folder)
    time.sleep(0.05)  # a tick of the clock that files are dated by
    put(folder / WEIGHTS, b"B" * 100)
    assert revision(folder) != before
    assert read.count(WEIGHTS) == 2


def test_what_was_written_just_now_is_read_each_time(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_sums, "_COARSEST_CLOCK_NS", 10**12)
    assert revision(folder) == revision(folder)
    assert read.count(WEIGHTS) == 2


def test_a_model_below_a_hidden_folder_is_known_by_its_content_too(
    folder: Path, tmp_path: Path
) -> None:
    hidden = tmp_path / ".cache" / "tiny"
    shutil.copytree(folder, hidden)
    assert revision(hidden) == revision(folder)


def test_the_order_in_which_a_file_system_lists_does_not_count(tmp_path: Path) -> None:
    names = [f"{number * 7 % 50:02}.bin" for number in range(50)]
    for name in names:
        (tmp_path / name).write_text(name)
    lines = "".join(
        f"{hashlib.sha256(name.encode()).hexdigest()} {name}\n"
        for name in sorted(names)
    )
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert content_sums.folder_sha256(tmp_path) == expected


def test_a_copy_is_the_same_model_and_a_moved_file_makes_another(
    folder: Path, tmp_path: Path
) -> None:
    before = revision(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    (copy / ".git").mkdir()
    (copy / ".git" / "index").write_text("hidden")
    assert revision(copy) == before
    (copy / "1_Pooling").rename(copy / "2_Pooling")
    assert revision(copy) != before


def test_content_is_read_once_and_not_before_it_is_asked_for(
    folder: Path, read: list[str]
) -> None:
    found = locate_model(str(folder), offline=True)
    assert read == []
    assert found.revision == found.revision == revision(folder)
    assert sorted(read) == ["config.json", "config.json", WEIGHTS]
    (folder / "config.json").write_text('{"other": 1}')
    assert revision(folder) != found.revision
    assert sorted(read) == ["config.json", "config.json", "config.json", WEIGHTS]


def test_weights_of_a_package_are_read_once(read: list[str]) -> None:
    content_sums._read_once.cache_clear()
    config = dense_model("all-miniLM-l6")
    for manager in (ModelManager(offline=True), ModelManager(offline=True)):
        assert manager.locate(config).revision == f"sha256:{config.weights_sha256}"
    assert read == [WEIGHTS]


def test_a_location_keeps_its_revision_when_the_files_change(folder: Path) -> None:
    found = locate_model(str(folder), offline=True)
    before = found.revision
    put(folder / WEIGHTS, b"B" * 100)
    assert found.revision == before != revision(folder)


def test_a_commit_is_taken_for_what_it_is(folder: Path, read: list[str]) -> None:
    assert ModelLocation(folder, "c" * 40, "cache").revision == "c" * 40
    assert read == []


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelNotAvailable, match="cannot be read") as raised:
        file_sha256(tmp_path / "gone")
    assert raised.value.cure
