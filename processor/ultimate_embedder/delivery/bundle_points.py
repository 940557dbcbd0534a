"""The points of a bundle: what they are, then a stream of bounded batches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ..errors import BundleError, DeliveryError, UsageError
from ..export.layout import BundleNames
from ..export.manifest import Manifest
from ..export.strict_json import Line, read_lines
from ..models.catalogue import SPARSE_MODELS
from .layout import CollectionLayout, DenseVector, Point, SparseVectorKind

MAX_BATCH_POINTS: Final = 256
MAX_BATCH_BYTES: Final = 8 * 2**20  # a quarter of what a Qdrant server takes by default
_REFUSED_IN_NAMES: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPlan:
    """What would be sent where: decided before anything is touched."""

    bundle: Path
    points_file: Path
    collection: str
    points: int
    bytes: int
    layout: CollectionLayout


def plan_upload(bundle: Path, collection: str | None = None) -> UploadPlan:
    """Return what uploading `bundle` means; its own name serves unless one is given.

    Raises:
        BundleError: the folder is no bundle, or its points are incomplete.
        DeliveryError: the points are in the simple layout or of an unknown kind.
        UsageError: the collection name is one that Qdrant does not allow.
    """
    manifest = Manifest.read(bundle)
    points_file = bundle / BundleNames(manifest.collection).points
    if not points_file.is_file():
        raise BundleError(
            f"{bundle} holds no {points_file.name}.",
            cure="Build it with the export 'jsonl'.",
        )
    layout, found = _layout(points_file), _count_lines(points_file)
    if manifest.chunk_count != found:
        raise BundleError(
            f"{points_file.name} holds {found} points, the manifest says "
            f"{manifest.chunk_count}.",
            cure="Verify the bundle, then rebuild it.",
        )
    target = manifest.collection if collection is None else collection
    if not target.strip() or _REFUSED_IN_NAMES.search(target) or target in {".", ".."}:
        raise UsageError(
            f"{target!r} cannot be the name of a collection.",
            cure="Give another with --collection.",
        )
    return UploadPlan(
        bundle=bundle,
        points_file=points_file,
        collection=target,
        points=found,
        bytes=points_file.stat().st_size,
        layout=layout,
    )


def read_batches(
    path: Path,
    *,
    max_points: int = MAX_BATCH_POINTS,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[list[Point]]:
    """Yield the points of a JSONL file, in order, in bounded batches.

    A batch holds at most `max_points` points and `max_bytes` of JSON, except that a
    single larger point travels alone.

    Raises:
        BundleError: a line is no point; names the line.
    """
    batch: list[Point] = []
    size = 0
    for line in read_lines(path):
        length = len(line.content)
        if batch and (len(batch) >= max_points or size + length > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(_parse(path, line))
        size += length
    if batch:
        yield batch


def _parse(path: Path, line: Line) -> dict[str, Any]:
    """Return the row of a line, which `PointStruct(**row)` takes."""
    try:
        row = orjson.loads(line.content)
    except orjson.JSONDecodeError as error:
        raise _no_point(path, line) from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise _no_point(path, line)
    return row


def _no_point(path: Path, line: Line) -> BundleError:
    return BundleError(
        f"Line {line.number} of {path.name} is no point.",
        cure="Restore a copy of the bundle or build it anew.",
    )


def _count_lines(path: Path) -> int:
    return sum(1 for _ in read_lines(path))


def _layout(points_file: Path) -> CollectionLayout:
    """Read the vectors from the first point: every point carries all of them."""
    first = next(read_batches(points_file, max_points=1), None)
    if first is None:
        raise BundleError(f"{points_file.name} is empty.")
    vectors = first[0].get("vector")
    if not isinstance(vectors, dict):
        raise DeliveryError(
            f"{points_file.name} is in the layout 'simple', which Qdrant cannot load.",
            cure="Build the bundle with --jsonl-layout qdrant.",
        )
    dense = {k: DenseVector(len(v)) for k, v in vectors.items() if isinstance(v, list)}
    sparse = {k: _kind(k) for k, v in vectors.items() if isinstance(v, dict)}
    return CollectionLayout(dense, sparse)


def _kind(key: str) -> SparseVectorKind:
    model = SPARSE_MODELS.get(key)
    if model is None:
        raise DeliveryError(
            f"The sparse vector '{key}' is of no known model: whether Qdrant must "
            "apply IDF to it cannot be told.",
            cure=f"Known: {', '.join(sorted(SPARSE_MODELS))}.",
        )
    return SparseVectorKind(idf=model.kind in {"bm25", "attention"})
