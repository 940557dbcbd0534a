"""Sparse vectors of a sample made again from texts, metadata or a model.

BM25 and terms from metadata need no model: the manifest's statistics hold the rest.
They must come out with the same terms and values; attention's values may differ a
little between machines, its terms not. SPLADE has terms of nearly no weight that come
and go with the precision, so its vectors are compared by their cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from ..encoders.bm25 import Bm25Encoder
from ..encoders.metadata_terms import MetadataTerms
from ..errors import ModelError, ModelNotAvailable, UsageError
from ..export.jsonl import Point
from ..export.strict_json import read_lines
from ..records import SparseInferenceRun, SparseVector
from .opened import OpenBundle
from .report import Findings
from .sparse import parse_sparse_row

EmbedSparse = Callable[[Sequence[str], SparseInferenceRun], Sequence[SparseVector]]
"""Makes the vectors of documents with the model of a run."""

EXACT_TOLERANCE = 1e-6
MODEL_TOLERANCE = 0.02
MIN_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class _MadeAgain:
    vectors: Sequence[SparseVector]
    tolerance: float | None  # of values, relative; None: the cosine decides


def check_deep_sparse(
    bundle: OpenBundle,
    points: Sequence[Point],
    rows: Sequence[int],
    embed_sparse: EmbedSparse | None,
    findings: Findings,
) -> None:
    """Compare the stored sparse vectors of rows with those made of their points now."""
    name = bundle.names.sparse
    if not bundle.sparse_keys:
        return
    if bundle.file(name) is None or not bundle.usable(name):
        findings.notes.append("no sparse vectors made again: their file is damaged")
        return
    stored = _stored(bundle, set(rows))
    if stored is None or len(stored) != len(points):
        return  # the line at fault was told before
    for run in bundle.manifest.sparse_run or ():
        key = run.sparse_model
        try:
            made = _make(run, points, embed_sparse)
        except (ModelError, UsageError) as error:
            findings.notes.append(f"not made again by {key}: {error.message}")
            continue
        _compare(name, key, rows, [row.get(key) for row in stored], made, findings)


def _stored(bundle: OpenBundle, rows: set[int]) -> list[dict[str, SparseVector]] | None:
    lines = read_lines(bundle.path / bundle.names.sparse)
    wanted = (line.content for row, line in enumerate(lines) if row in rows)
    try:
        return [parse_sparse_row(orjson.loads(line)).vectors for line in wanted]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _make(
    run: SparseInferenceRun, points: Sequence[Point], embed_sparse: EmbedSparse | None
) -> _MadeAgain:
    texts, facts = [point.text for point in points], run.statistics
    if facts.get("source") == "metadata":
        terms = MetadataTerms(str(facts.get("profile")))
        made = [terms.vector(point.metadata) for point in points]
        return _MadeAgain(made, EXACT_TOLERANCE)
    if facts.get("kind") == "bm25":
        return _MadeAgain(_bm25(run).encode_documents(texts), EXACT_TOLERANCE)
    if embed_sparse is None:
        raise ModelNotAvailable("no model was given")
    tolerance = None if facts.get("kind") == "splade" else MODEL_TOLERANCE
    return _MadeAgain(embed_sparse(texts, run), tolerance)


def _bm25(run: SparseInferenceRun) -> Bm25Encoder:
    facts = run.statistics
    length, k, b = (facts.get(name) for name in ("average_length", "k", "b"))
    if not all(type(figure) in (int, float) for figure in (length, k, b)):
        raise UsageError("the manifest does not state average length, k and b")
    profile = str(facts.get("profile"))
    return Bm25Encoder(
        profile,
        average_length=float(length or 0),
        k=float(k or 0),
        b=float(b or 0),
        name=run.sparse_model,
    )


def _compare(
    name: str,
    key: str,
    rows: Sequence[int],
    stored: Sequence[SparseVector | None],
    made: _MadeAgain,
    findings: Findings,
) -> None:
    equal = 0
    for row, old, new in zip(rows, stored, made.vectors, strict=True):
        if old is None:
            continue
        same = old.indices.tobytes() == new.indices.tobytes()
        equal += same and old.values.tobytes() == new.values.tobytes()
        place = f"line {row + 1}"
        if made.tolerance is None:
            if not _cosine(old, new) >= MIN_COSINE:
                problem = f"'{key}': cosine {_cosine(old, new):.6f} to its text again"
                findings.add(name, place, problem)
        elif not same:
            findings.add(name, place, f"'{key}': other terms than its text made again")
        elif not np.allclose(old.values, new.values, rtol=made.tolerance, atol=0):
            findings.add(name, place, f"'{key}': other values than its text made again")
    findings.checks.append(
        f"{len(rows)} sparse vectors made again by {key}, {equal} equal bit for bit"
    )


def _cosine(one: SparseVector, other: SparseVector) -> float:
    """Return the cosine of two sparse vectors; of two empty ones, 1."""
    if len(one) == len(other) == 0:
        return 1.0
    _, at, also = np.intersect1d(one.indices, other.indices, return_indices=True)
    values, others = one.values.astype(np.float64), other.values.astype(np.float64)
    norms = float(np.linalg.norm(values) * np.linalg.norm(others))
    return float(values[at] @ others[also]) / norms if norms else 0.0
