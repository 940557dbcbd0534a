"""Vectors and their FAISS index: the library and plain NumPy agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_parts import unit_vectors

from processor.ultimate_embedder.errors import BundleError, UsageError
from processor.ultimate_embedder.export.checksums import file_sha256
from processor.ultimate_embedder.export.faiss_index import FaissIndex, write_index
from processor.ultimate_embedder.export.vectors import open_vectors, write_vectors


@pytest.mark.parametrize("rows", [0, 1, 1023, 1025])
def test_numpy_reads_what_was_written(tmp_path: Path, rows: int) -> None:
    vectors, path = unit_vectors(rows, 5), tmp_path / "v.npy"
    file = write_vectors(path, "m", vectors)
    np.save(tmp_path / "numpy.npy", vectors)
    assert path.read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    assert file.sha256 == file_sha256(path)
    assert np.array_equal(open_vectors(path), vectors)


def test_opened_vectors_cannot_be_changed(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", "m", unit_vectors(2, 3))
    with pytest.raises(ValueError, match="read-only"):
        open_vectors(tmp_path / "v.npy")[0] = 0


def test_vectors_that_are_not_finite_are_refused_with_their_row(tmp_path: Path) -> None:
    vectors = unit_vectors(1030, 3)
    vectors[1027, 0] = np.nan
    with pytest.raises(BundleError, match="'m' in row 1027"):
        write_vectors(tmp_path / "v.npy", "m", vectors)


@pytest.mark.parametrize("cut", [0, 5, 9, 60, 127, 128, 140, -1])
def test_a_truncated_vector_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "v.npy"
    write_vectors(path, "m", unit_vectors(4, 3))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BundleError, match=r"v\.npy is not a whole"):
        open_vectors(path)


def test_another_type_of_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((2, 2)))
    with pytest.raises(BundleError, match="<f8"):
        open_vectors(tmp_path / "v.npy")


def test_an_exact_index_finds_what_numpy_finds(tmp_path: Path) -> None:
    vectors = unit_vectors(500, 16)
    file = write_index(tmp_path / "i.faiss", vectors)
    assert file.sha256 == file_sha256(tmp_path / "i.faiss")
    index = FaissIndex(tmp_path / "i.faiss")
    rows, scores = index.search(vectors[:20], 10)
    products = vectors[:20].astype(np.float64) @ vectors.T
    assert np.array_equal(rows, np.argsort(-products, axis=1)[:, :10])
    assert np.allclose(scores, -np.sort(-products, axis=1)[:, :10], atol=1e-6)
    assert index.exact
    assert index.inner_product
    assert np.array_equal(index.block(0), vectors)


def test_an_index_is_written_from_a_memory_mapped_file(tmp_path: Path) -> None:
    vectors = unit_vectors(300, 8)
    write_vectors(tmp_path / "v.npy", "m", vectors)
    mapped = open_vectors(tmp_path / "v.npy")
    one = write_index(tmp_path / "a.faiss", mapped)
    other = write_index(tmp_path / "b.faiss", vectors)
    assert one.sha256 == other.sha256


@pytest.mark.parametrize("factory", ["SQ8", "IVF4,Flat", "HNSW8"])
def test_other_factories_are_built_on_request(tmp_path: Path, factory: str) -> None:
    vectors = unit_vectors(400, 8)
    write_index(tmp_path / "i.faiss", vectors, factory=factory)
    index = FaissIndex(tmp_path / "i.faiss")
    assert (index.rows, index.dimension, index.exact) == (400, 8, False)
    assert index.inner_product


@pytest.mark.parametrize("factory", ["Bogus", "IVF4000,Flat"])
def test_a_factory_that_cannot_be_built_is_a_usage_error(
    tmp_path: Path, factory: str
) -> None:
    with pytest.raises(UsageError, match=factory):
        write_index(tmp_path / "i.faiss", unit_vectors(10, 4), factory=factory)


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "i.faiss").write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match=r"i\.faiss is not a FAISS index"):
        FaissIndex(tmp_path / "i.faiss")
