"""Room on the disk is asked for before the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from processor.ultimate_embedder.config import ALL_EXPORTS, GIB
from processor.ultimate_embedder.disk_space import (
    estimate_bundle_bytes,
    gib,
    require_free_space,
    require_writable,
)
from processor.ultimate_embedder.errors import OutputError, UsageError


def test_what_fits_is_accepted_also_where_no_folder_is_yet(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet", 1)
    assert not (tmp_path / "not").exists()


def test_what_does_not_fit_stops_with_both_figures(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).total + 7 * GIB
    with pytest.raises(OutputError) as caught:
        require_free_space(tmp_path, needed)
    assert caught.value.exit_code == 3
    assert gib(needed) in str(caught.value)
    assert "are free" in str(caught.value)


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/out.*--output-dir"):
        require_writable(tmp_path / "file" / "out")


def estimate(**changes: object) -> int:
    known: dict[str, object] = {
        "chunk_bytes": 10**6,
        "chunks": 1000,
        "dimensions": (384,),
        "sparse_models": 2,
        "exports": ALL_EXPORTS,
    }
    return estimate_bundle_bytes(**known | changes)  # type: ignore[arg-type]


def test_the_estimate_counts_the_vectors_of_each_export() -> None:
    vectors = 1000 * 384 * 4
    assert estimate() - estimate(exports=("npy", "jsonl")) == vectors
    assert estimate(exports=("npy",)) - estimate(exports=()) == vectors
    assert estimate(dimensions=(384, 1024)) > estimate()
    assert estimate(sparse_models=0) < estimate()
    assert estimate(attention=1) - estimate() == 1_500_000  # a figure a token


@pytest.mark.parametrize(
    ("size", "shown"),
    [(12 * GIB, "12 GiB"), (GIB // 2, "0.5 GiB"), (GIB * 5 // 4, "1.25 GiB")],
)
def test_bytes_are_shown_in_gib(size: int, shown: str) -> None:
    assert gib(size) == shown
