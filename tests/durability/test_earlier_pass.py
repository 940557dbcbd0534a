"""What may be taken over from an earlier pass, and what may not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.intake.pieces import Pieces
from processor.ultimate_embedder.planning import BatchPlan
from processor.ultimate_embedder.stages.earlier_pass import (
    PassState,
    RowTexts,
    Taken,
    finished_rows,
    pieces_of,
    read_row_texts,
    read_taken,
    restore,
    save_row_texts,
    save_taken,
    take_place,
)


def row_texts(texts: list[str]) -> RowTexts:
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    hashes = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return RowTexts(hashes, np.arange(len(texts) + 1, dtype=np.int64))


words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20)


@given(words, words)
def test_rows_of_equal_text_match_and_no_others(now: list[str], old: list[str]) -> None:
    here, there = row_texts(now).matches(row_texts(old))
    assert [now[row] for row in here] == [old[row] for row in there]
    assert {now[row] for row in here} == set(now) & set(old)
    assert all(row == now.index(now[row]) for row in here)
    assert all(row == old.index(old[row]) for row in there)


def three_rows() -> tuple[Pieces, BatchPlan]:
    """Rows 0 and 2 fit; row 1 has the windows 3 and 4. Batches: (3, 0), (4, 2)."""
    pieces = Pieces(
        3,
        np.array([1, 1], dtype=np.int64),
        np.array([1, 9], dtype=np.int64),
        np.array([9, 17], dtype=np.int64),
    )
    plan = BatchPlan(np.array([3, 0, 4, 2], np.int64), np.array([0, 2, 4], np.int64))
    return pieces, plan


@pytest.mark.parametrize(
    ("batches", "taken", "expected"),
    [
        ([], [], [False, False, False]),
        ([0], [], [True, False, False]),
        ([1], [], [False, False, True]),
        ([0, 1], [], [True, True, True]),
        ([0], [4], [True, True, False]),
        ([], [3, 4], [False, True, False]),
    ],
)
def test_a_row_is_done_when_all_its_pieces_are(
    batches: list[int], taken: list[int], expected: list[bool]
) -> None:
    pieces, plan = three_rows()
    copied = np.array(taken, dtype=np.int64)
    assert finished_rows(pieces, plan, batches, copied).tolist() == expected


def test_the_pieces_of_rows_are_themselves_or_their_windows() -> None:
    pieces, _ = three_rows()
    assert pieces_of(pieces, np.array([0, 1])).tolist() == [0, 3, 4]
    assert pieces_of(pieces, np.array([2])).tolist() == [2]


def test_what_was_copied_holds_for_one_fingerprint(tmp_path: Path) -> None:
    save_taken(tmp_path, "dense", "abc", Taken(np.array([1, 5]), "d"))
    assert read_taken(tmp_path, "dense", "abc").digest == "d"
    assert read_taken(tmp_path, "dense", "abc").numbers.tolist() == [1, 5]
    assert read_taken(tmp_path, "dense", "abd").numbers.tolist() == []
    assert read_taken(tmp_path, "attention", "abc").numbers.tolist() == []


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_files_cut_short_count_as_absent(tmp_path: Path, share: float) -> None:
    PassState({"dense": "f"}, {"dense": "s"}).write(tmp_path)
    save_taken(tmp_path, "dense", "f", Taken(np.arange(50), "d"))
    save_row_texts(tmp_path, row_texts(["a", "b"]))
    assert PassState.read(tmp_path).settings == {"dense": "s"}
    found = read_row_texts(tmp_path)
    assert found is not None
    assert found.hashes.tobytes() == row_texts(["a", "b"]).hashes.tobytes()
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert PassState.read(tmp_path) == PassState({}, {})
    assert not len(read_taken(tmp_path, "dense", "f"))
    assert read_row_texts(tmp_path) is None


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for name in ("pass", "pass.next"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    take_place(tmp_path / "pass.next", tmp_path / "pass")
    assert (tmp_path / "pass" / "file").read_text() == "pass.next"
    assert [path.name for path in tmp_path.iterdir()] == ["pass"]


def test_a_finished_folder_is_on_the_disk_before_and_after_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, place = tmp_path / "pass.next", tmp_path / "pass"
    for folder in (new, place):
        folder.mkdir()
        (folder / "file").touch()
    synced: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    take_place(new, place)
    assert synced == [new / "file", place, tmp_path]


def test_a_replacement_that_stopped_between_its_renames_is_undone(
    tmp_path: Path,
) -> None:
    old, place = tmp_path / "pass.old", tmp_path / "pass"
    old.mkdir()
    restore(place)
    assert [path.name for path in tmp_path.iterdir()] == ["pass"]
    old.mkdir()
    (place / "newer").touch()
    restore(place)
    assert (place / "newer").exists()
