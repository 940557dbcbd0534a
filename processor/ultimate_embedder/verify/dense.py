"""Dense vectors: finite, of unit length, and the same to FAISS as to NumPy."""

from __future__ import annotations

import numpy as np

from ..errors import BundleError
from ..export.faiss_index import EXACT, FaissIndex
from ..export.vectors import BLOCK_ROWS
from ..records import Float32Array
from ..retrieval.indexes import DenseIndex
from .opened import OpenBundle
from .report import Findings

UNIT_TOLERANCE = 1e-4
SCORE_TOLERANCE = 1e-5
SAMPLE_ROWS = 16
SEARCH_DEPTH = 10


def check_dense(bundle: OpenBundle, findings: Findings) -> None:
    """Check the vectors of every model and their index."""
    widths = {run.model: run.dimension for run in bundle.manifest.dense_run or ()}
    for key, vectors in bundle.vectors.items():
        name = bundle.names.dense(key)
        shape = (bundle.manifest.chunk_count, widths.get(key, vectors.shape[1]))
        if vectors.shape != shape:
            findings.add(name, "header", f"shape {vectors.shape} instead of {shape}")
            continue
        sound = _check_values(name, vectors, findings)
        if bundle.usable(bundle.names.index(key)):
            _check_index(bundle, key, vectors, findings, searchable=sound)
        else:
            findings.skip(f"searches with {key}", bundle.names.index(key))
            if name in bundle.intact:
                _place_damage(bundle, bundle.names.index(key), vectors, findings)
    for key in bundle.names.dense_keys(bundle.listed):
        if key not in bundle.vectors:
            findings.skip(f"vectors of {key}", bundle.names.dense(key))
    if bundle.vectors:
        findings.checks.append(f"vectors of {len(bundle.vectors)} dense models")


def sample_rows(rows: int, wanted: int) -> list[int]:
    """Return at most `wanted` evenly spaced rows, the first and the last among them."""
    return sorted({int(row) for row in np.linspace(0, rows - 1, min(rows, wanted))})


def _check_values(name: str, vectors: Float32Array, findings: Findings) -> bool:
    sound = True
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.asarray(vectors[start : start + BLOCK_ROWS], dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.linalg.norm(block, axis=1)
            wrong = ~(np.abs(norms - 1) <= UNIT_TOLERANCE)
        for place in np.flatnonzero(wrong):
            row = start + int(place)
            finite = np.isfinite(block[place]).all()
            problem = f"L2 norm {norms[place]:.6g}, not 1" if finite else "not finite"
            findings.add(name, f"row {row}", problem)
            sound = False
    return sound


def _check_index(
    bundle: OpenBundle,
    key: str,
    vectors: Float32Array,
    findings: Findings,
    *,
    searchable: bool,
) -> None:
    name = bundle.names.index(key)
    suspect = bundle.suspect(name, bundle.names.dense(key))
    try:
        index = FaissIndex(bundle.path / name)
    except BundleError as error:
        findings.add(name, "whole file", error.message)
        return
    if (index.rows, index.dimension) != vectors.shape or not index.inner_product:
        findings.add(
            name,
            "header",
            f"{index.rows} rows of width {index.dimension} instead of {vectors.shape}, "
            "or not by inner product",
        )
        return
    if not index.exact:
        findings.notes.append(f"{name} is approximate: its answers were not compared")
        return
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.asarray(vectors[start : start + BLOCK_ROWS])
        differing = index.block(start).view(np.uint32) != block.view(np.uint32)
        for place in np.flatnonzero(differing.any(axis=1)):
            row = start + int(place)
            if suspect == name:
                findings.add(name, f"row {row}", "differs from the .npy file")
            else:
                findings.add(suspect, f"row {row}", "differs from the index")
    if searchable and suspect == name and len(vectors):
        _compare_searches(name, index, vectors, findings)


def _place_damage(
    bundle: OpenBundle, name: str, vectors: Float32Array, findings: Findings
) -> None:
    """Say where an exact index of the right size differs from the vectors.

    Such a file is a short header and the vectors, so it need not be parsed.
    """
    path, export = bundle.file(name), bundle.manifest.export
    if path is None or export is None or export.faiss_factory != EXACT:
        return
    size = path.stat().st_size
    begin = size - vectors.nbytes
    if begin <= 0 or size not in {a.bytes for a in bundle.manifest.artifacts}:
        return
    stored = np.memmap(path, dtype=np.uint8, mode="r", offset=begin)
    width, differs = vectors.shape[1] * 4, False
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.asarray(vectors[start : start + BLOCK_ROWS]).view(np.uint8)
        found = stored[start * width :][: block.size].reshape(block.shape)
        for row in np.flatnonzero((found != block).any(axis=1)):
            at = (start + int(row)) * width + int((found[row] != block[row]).argmax())
            place = f"row {start + int(row)}, byte {begin + at}"
            findings.add(name, place, "differs from the .npy file")
            differs = True
    if not differs:
        findings.add(name, f"bytes 0-{begin}", "the header differs")


def _compare_searches(
    name: str, index: FaissIndex, vectors: Float32Array, findings: Findings
) -> None:
    """Equal answers: the same scores in order, and each hit's row has its score."""
    rows = sample_rows(len(vectors), SAMPLE_ROWS)
    depth = min(SEARCH_DEPTH, len(vectors))
    exact = DenseIndex(vectors)
    queries = np.ascontiguousarray(vectors[rows])
    hits, scores = index.search(queries, depth)
    answers = exact.search_batch(queries, depth)
    for place, row in enumerate(rows):
        same = np.allclose(
            scores[place], answers[place].scores, rtol=0, atol=SCORE_TOLERANCE
        )
        own = exact.scores(queries[place], hits[place])
        if not (same and np.allclose(own, scores[place], rtol=0, atol=SCORE_TOLERANCE)):
            findings.add(
                name, f"search for row {row}", "differs from an exact NumPy search"
            )
    findings.checks.append(f"{len(rows)} searches in {name} against NumPy")
