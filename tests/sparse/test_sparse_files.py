"""Sparse matrices on disk: streamed, whole or absent, taken up when they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.records import SparseVector
from processor.ultimate_embedder.retrieval.sparse_files import (
    ArrayWriter,
    MatrixWriter,
    build_once,
    holds,
    open_matrix,
)


@given(blocks=st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5), max_size=5))
def test_a_grown_file_is_the_file_numpy_would_write(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("array")
    with ArrayWriter(folder / "grown.npy", np.uint32) as writer:
        for block in blocks:
            writer.append(np.array(block, dtype=np.uint32))
    whole = np.array([item for block in blocks for item in block], dtype=np.uint32)
    np.save(folder / "whole.npy", whole)
    grown = np.load(folder / "grown.npy", mmap_mode="r")
    assert grown.dtype == np.uint32
    assert grown.tolist() == whole.tolist()
    assert (folder / "grown.npy").read_bytes() == (folder / "whole.npy").read_bytes()


def _vector(*entries: tuple[int, float]) -> SparseVector:
    return SparseVector(
        np.array([number for number, _ in entries], dtype=np.uint32),
        np.array([value for _, value in entries], dtype=np.float32),
    )


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    vectors = [_vector((1, 0.5), (9, 2.0)), _vector(), _vector((2**31, 1.0))]
    with MatrixWriter(tmp_path) as writer:
        for vector in vectors:
            writer.append(vector)
    matrix = open_matrix(tmp_path)
    assert len(matrix) == 3
    assert isinstance(matrix.values.base, np.memmap)
    for found, vector in zip(matrix, vectors, strict=True):
        assert found.indices.tolist() == vector.indices.tolist()
        assert found.values.tolist() == vector.values.tolist()


def test_arrays_of_different_lengths_are_no_matrix(tmp_path: Path) -> None:
    with MatrixWriter(tmp_path) as writer:
        writer.append(_vector((1, 0.5)))
    np.save(tmp_path / "values.npy", np.zeros(2, dtype=np.float32))
    with pytest.raises(BundleError, match="damaged"):
        open_matrix(tmp_path)


class Builds:
    """Counts how often it was asked to build; breaks off on demand."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        assert list(folder.iterdir()) == []
        (folder / "part").write_text("x")
        self.done += 1
        return {"average": 0.1 + self.done}

    def break_off(self, folder: Path) -> Mapping[str, Any]:
        (folder / "part").write_text("x")
        raise KeyboardInterrupt


def test_the_same_facts_are_built_once_and_learnt_twice(tmp_path: Path) -> None:
    builds, folder = Builds(), tmp_path / "work" / "matrix"
    assert build_once(folder, {"chunks": "a"}, builds) == {"average": 1.1}
    assert build_once(folder, {"chunks": "a"}, builds) == {"average": 1.1}
    assert builds.done == 1
    assert holds(folder, {"chunks": "a"})
    assert not holds(folder, {"chunks": "b"})


def test_other_facts_or_a_refused_reuse_build_anew(tmp_path: Path) -> None:
    builds, folder = Builds(), tmp_path / "matrix"
    build_once(folder, {"chunks": "a"}, builds)
    assert build_once(folder, {"chunks": "b"}, builds) == {"average": 2.1}
    assert build_once(folder, {"chunks": "b"}, builds, reuse=False) == {"average": 3.1}


@pytest.mark.parametrize("kept", [None, 0, 60])
def test_an_array_that_is_missing_or_cut_short_is_told_as_damage(
    tmp_path: Path, kept: int | None
) -> None:
    with MatrixWriter(tmp_path) as writer:
        writer.append(_vector((1, 0.5)))
    path = tmp_path / "indices.npy"
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[:kept])
    with pytest.raises(BundleError, match=r"is damaged\. Remove that folder"):
        open_matrix(tmp_path)


def test_an_interrupted_build_is_not_taken_for_a_result(tmp_path: Path) -> None:
    builds, folder = Builds(), tmp_path / "matrix"
    with pytest.raises(KeyboardInterrupt):
        build_once(folder, {"chunks": "a"}, builds.break_off)
    assert not folder.exists()
    assert build_once(folder, {"chunks": "a"}, builds) == {"average": 1.1}
    assert [path.name for path in tmp_path.iterdir()] == ["matrix"]


def test_damaged_facts_build_anew(tmp_path: Path) -> None:
    builds, folder = Builds(), tmp_path / "matrix"
    build_once(folder, {"chunks": "a"}, builds)
    for damaged in ("{", "[]", json.dumps({"facts": {"chunks": "a"}})):
        (folder / "facts.json").write_text(damaged)
        build_once(folder, {"chunks": "a"}, builds)
    assert builds.done == 4
