"""Embed a sample again and compare: does the model still give these vectors?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import BundleError
from ..export.jsonl import read_points
from ..records import Float32Array
from .dense import sample_rows
from .opened import OpenBundle
from .report import Findings

Embed = Callable[[Sequence[str], str], Float32Array]
"""Embeds texts as documents with the model of a key: float32 [texts, dim]."""

SAMPLE_TEXTS = 32
MIN_COSINE = 0.9995


def check_deep(bundle: OpenBundle, embed: Embed, findings: Findings) -> None:
    """Compare stored vectors of a sample, evenly spaced, with vectors made now."""
    path = bundle.file(bundle.names.points)
    if path is None or not bundle.usable(bundle.names.points):
        findings.notes.append("not embedded again: there are no undamaged points")
        return
    rows = sample_rows(bundle.manifest.chunk_count, SAMPLE_TEXTS)
    try:
        texts = _texts(bundle, set(rows))
    except BundleError as error:
        findings.add(bundle.names.points, "whole file", error.message)
        return
    for key, vectors in bundle.vectors.items():
        if rows and rows[-1] < len(vectors):
            _compare(
                bundle, key, np.asarray(vectors[rows]), texts, rows, embed, findings
            )


def _texts(bundle: OpenBundle, rows: set[int]) -> list[str]:
    points = read_points(bundle.path / bundle.names.points)
    return [point.text for row, point in enumerate(points) if row in rows]


def _compare(
    bundle: OpenBundle,
    key: str,
    stored: Float32Array,
    texts: list[str],
    rows: list[int],
    embed: Embed,
    findings: Findings,
) -> None:
    name = bundle.names.dense(key)
    made = embed(texts, key)
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
