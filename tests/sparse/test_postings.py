"""Inverted lists hold the matrix, transposed, whatever its shape."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import processor.ultimate_embedder.retrieval.postings as module
from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.records import SparseMatrix
from processor.ultimate_embedder.retrieval.postings import (
    Postings,
    idf,
    write_postings,
)

ROWS = st.lists(
    st.dictionaries(
        st.sampled_from([0, 1, 2, 7, 1000, 2**31, 2**32 - 1]),
        st.floats(0.125, 8, width=32),
        max_size=6,
    ),
    max_size=25,
)


def _matrix(rows: list[dict[int, float]]) -> SparseMatrix:
    entries = [(term, row[term]) for row in rows for term in sorted(row)]
    return SparseMatrix(
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.array([term for term, _ in entries], dtype=np.uint32),
        np.array([value for _, value in entries], dtype=np.float32),
    )


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, block=st.integers(1, 9))
def test_every_entry_is_found_under_its_term(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[int, float]], block: int
) -> None:
    folder = tmp_path_factory.mktemp("postings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_ENTRIES", block)
        write_postings(_matrix(rows), folder, average_length=None)
    postings = Postings.open(folder)
    terms = sorted({term for row in rows for term in row})
    assert postings.terms.tolist() == terms
    assert postings.documents == len(rows)
    assert postings.population == sum(bool(row) for row in rows)
    assert postings.average_length is None
    for term in terms:
        found_rows, values = postings.entries(term)
        assert dict(zip(found_rows.tolist(), values.tolist(), strict=True)) == {
            row: entries[term] for row, entries in enumerate(rows) if term in entries
        }
        assert found_rows.tolist() == sorted(found_rows.tolist())


def test_a_large_matrix_equals_scipys_transpose(tmp_path: Path) -> None:
    random = scipy.sparse.random(
        3000, 500, density=0.02, format="csr", dtype=np.float32, rng=7
    )
    random.sort_indices()
    matrix = SparseMatrix(
        random.indptr.astype(np.int64), random.indices.astype(np.uint32), random.data
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_ENTRIES", 1000)
        write_postings(matrix, tmp_path / "p", average_length=12.5)
    postings = Postings.open(tmp_path / "p")
    columns = random.tocsc()
    columns.sort_indices()
    assert postings.rows.tolist() == columns.indices.tolist()
    assert postings.values.tobytes() == columns.data.tobytes()
    frequency = np.diff(columns.indptr)
    assert postings.terms.tolist() == np.flatnonzero(frequency).tolist()
    assert postings.document_frequency(np.arange(500)).tolist() == frequency.tolist()
    assert (postings.documents, postings.average_length) == (3000, 12.5)


def test_unknown_terms_have_no_documents_and_no_entries(tmp_path: Path) -> None:
    write_postings(_matrix([{3: 1.0}, {}]), tmp_path, average_length=0.5)
    postings = Postings.open(tmp_path)
    assert postings.document_frequency([0, 3, 4, 2**32 - 1]).tolist() == [0, 1, 0, 0]
    rows, values = postings.entries(4)
    assert (len(rows), len(values)) == (0, 0)
    assert len(postings.document_frequency([])) == 0


def test_the_arrays_are_memory_mapped_and_all_files_are_npy(tmp_path: Path) -> None:
    write_postings(_matrix([{3: 1.0}]), tmp_path, average_length=1.0)
    postings = Postings.open(tmp_path)
    for name in ("terms", "offsets", "rows", "values"):
        assert isinstance(getattr(postings, name), np.memmap)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy"}


def test_the_same_matrix_gives_the_same_bytes(tmp_path: Path) -> None:
    matrix = _matrix([{5: 1.0, 9: 2.0}, {5: 3.0}])
    for name in ("one", "two"):
        write_postings(matrix, tmp_path / name, average_length=1.5)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def _refuses(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, start: int, size: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)


@pytest.mark.parametrize("system", ["reserves", "refuses", "has no call for it"])
def test_the_room_of_a_map_is_taken_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """A page that has no room when it is written ends the process."""
    if system == "refuses":
        _refuses(errno.EOPNOTSUPP, monkeypatch)
    elif system == "has no call for it":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    length = 600_001  # two blocks of zeros and a bit
    module._new_array(tmp_path, "rows", np.int32, length)
    path = tmp_path / "rows.npy"
    facts = path.stat()
    assert facts.st_blocks * 512 >= facts.st_size
    stored = np.load(path)
    assert (stored.shape, stored.dtype) == ((length,), np.int32)
    assert not stored.any()
    assert facts.st_size == 128 + 4 * length


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_without_room_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    _refuses(code, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_postings(_matrix([{3: 1.0}]), tmp_path, average_length=1.0)


def test_empty_lists_need_no_room(tmp_path: Path) -> None:
    write_postings(_matrix([{}, {}]), tmp_path, average_length=None)
    assert len(Postings.open(tmp_path).rows) == 0


def test_idf_is_that_of_the_engine() -> None:
    # ln(1 + (10 - 3 + .5) / (3 + .5)) and ln(1 + .5 / 10.5)
    expected = [np.log(1 + 7.5 / 3.5), np.log(1 + 0.5 / 10.5)]
    np.testing.assert_allclose(idf(10, [3, 10]), expected, rtol=1e-12)
    assert (idf(5, [0, 1, 5]) > 0).all()


@pytest.mark.parametrize("name", ["terms", "offsets", "rows", "values", "statistics"])
def test_a_missing_or_cut_file_is_named(tmp_path: Path, name: str) -> None:
    write_postings(_matrix([{3: 1.0}, {4: 2.0}]), tmp_path, average_length=1.0)
    path = tmp_path / f"{name}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=rf"{name}\.npy is damaged"):
        Postings.open(tmp_path)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name}\.npy is missing"):
        Postings.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rows", np.zeros(3, dtype=np.int32)),
        ("offsets", np.array([0, 1], dtype=np.int64)),
        ("offsets", np.array([0, 0, 2], dtype=np.int64)),
        ("terms", np.array([4, 3], dtype=np.uint32)),
        ("values", np.zeros(2, dtype=np.float64)),
        ("statistics", np.zeros(2)),
        ("rows", np.zeros((2, 1), dtype=np.int32)),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    tmp_path: Path, name: str, array: np.ndarray
) -> None:
    write_postings(_matrix([{3: 1.0}, {4: 2.0}]), tmp_path, average_length=1.0)
    np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(BundleError):
        Postings.open(tmp_path)
