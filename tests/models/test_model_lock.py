"""The lock keeps commits by model and reference, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_parts import COMMIT, LATER

from processor.ultimate_embedder.errors import OutputError, UsageError
from processor.ultimate_embedder.models.lock import (
    NO_LOCK,
    is_commit,
    read_lock,
    write_lock,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    lock = NO_LOCK.with_commit("acme/tiny", None, COMMIT)
    lock = lock.with_commit("acme/tiny", "refs/pr/1", LATER)
    path = tmp_path / "new" / "models.lock.json"
    write_lock(path, lock)
    again = read_lock(path)
    assert again.pinned("acme/tiny", None) == COMMIT
    assert again.pinned("acme/tiny", "main") == COMMIT
    assert again.pinned("acme/tiny", "refs/pr/1") == LATER
    assert again.pinned("acme/other", None) is None
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_equal_locks_are_equal_files(tmp_path: Path) -> None:
    one = NO_LOCK.with_commit("b/b", None, COMMIT).with_commit("a/a", None, LATER)
    other = NO_LOCK.with_commit("a/a", None, LATER).with_commit("b/b", None, COMMIT)
    write_lock(tmp_path / "one", one)
    write_lock(tmp_path / "other", other)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_commit_needs_no_lock() -> None:
    assert NO_LOCK.pinned("acme/tiny", COMMIT) == COMMIT
    assert is_commit(COMMIT)
    assert not is_commit("main")
    assert not is_commit(COMMIT[:12])


def test_no_lock_is_an_empty_one(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "absent") is NO_LOCK


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        json.dumps({"version": 2, "models": {}}),
        json.dumps({"version": 1, "models": {"a/b": {"main": "not-a-commit"}}}),
        json.dumps({"version": 1, "models": {"a/b": "main"}}),
    ],
)
def test_what_is_no_lock_is_refused_with_a_cure(tmp_path: Path, content: str) -> None:
    path = tmp_path / "models.lock.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="no lock of models") as raised:
        read_lock(path)
    assert "Error" not in str(raised.value), "in words, not by Python's names"
    assert "models fetch" in (raised.value.cure or "")


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write the lock"):
        write_lock(tmp_path / "file" / "models.lock.json", NO_LOCK)
