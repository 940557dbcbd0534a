"""Embed a sample again and compare: do the models still give these vectors?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import BundleError, ModelError
from ..export.jsonl import Point, read_points
from ..records import Float32Array
from .deep_sparse import EmbedSparse, check_deep_sparse
from .dense import sample_rows
from .opened import OpenBundle
from .report import Findings

Embed = Callable[[Sequence[str], str], Float32Array]
"""Embeds texts as documents with the model of a key: float32 [texts, dim]."""

SAMPLE_TEXTS = 32
MIN_COSINE = 0.9995


def check_deep(
    bundle: OpenBundle,
    embed: Embed,
    findings: Findings,
    embed_sparse: EmbedSparse | None = None,
) -> None:
    """Compare stored vectors of a sample, evenly spaced, with vectors made now.

    What cannot be made again, for want of a model, is a note and no fault.
    """
    name = bundle.names.points
    if bundle.file(name) is None or not bundle.usable(name):
        findings.notes.append("not embedded again: there are no undamaged points")
        return
    rows = sample_rows(bundle.manifest.chunk_count, SAMPLE_TEXTS)
    try:
        points = _sample(bundle, set(rows))
    except BundleError as error:
        findings.add(name, "whole file", error.message)
        return
    if len(points) != len(rows):
        return  # told of where the rows are compared
    texts = [point.text for point in points]
    for key, vectors in bundle.vectors.items():
        if rows and rows[-1] < len(vectors):
            stored = np.asarray(vectors[rows])
            try:
                made = embed(texts, key)
            except ModelError as error:
                findings.notes.append(f"not embedded again by {key}: {error.message}")
                continue
            _compare(bundle, key, stored, made, rows, findings)
    check_deep_sparse(bundle, points, rows, embed_sparse, findings)


def _sample(bundle: OpenBundle, rows: set[int]) -> list[Point]:
    points = read_points(bundle.path / bundle.names.points)
    return [point for row, point in enumerate(points) if row in rows]


def _compare(
    bundle: OpenBundle,
    key: str,
    stored: Float32Array,
    made: Float32Array,
    rows: list[int],
    findings: Findings,
) -> None:
    name = bundle.names.dense(key)
    if made.shape != stored.shape:
        findings.add(name, "sample", f"embedded again as {made.shape}")
        return
    cosines = np.einsum("ij,ij->i", made.astype(np.float64), stored)
    for row, cosine in zip(rows, cosines, strict=True):
        if not cosine >= MIN_COSINE:
            findings.add(
                name, f"row {row}", f"cosine {cosine:.6f} to the text embedded again"
            )
    equal = int((made.view(np.uint32) == stored.view(np.uint32)).all(axis=1).sum())
    findings.checks.append(
        f"{len(rows)} texts embedded again by {key}, {equal} equal bit for bit"
    )
