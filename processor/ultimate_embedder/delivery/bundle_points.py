"""The points of a bundle: what they are, then a stream of bounded batches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from ..errors import BundleError, DeliveryError, UsageError
from ..export.layout import BundleNames, repair_cure
from ..export.manifest import Manifest
from ..export.strict_json import Line, read_lines
from ..models.catalogue import SPARSE_MODELS
from .layout import CollectionLayout, DenseVector, Point, SparseVectorKind
from .membership import IdArray, id_bytes
from .presets import DEFAULT, Tuning, preset

MAX_BATCH_POINTS: Final = 256
MAX_BATCH_BYTES: Final = 8 * 2**20  # a Qdrant server takes 32 MiB by default
_REFUSED_IN_NAMES: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_CURE: Final = "Verify the bundle, then build it anew."
_ID_FIRST: Final = re.compile(
    rb'\{"id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPlan:
    """What would be sent where: decided before anything is touched.

    `ids` are those of the points, S16 [rows]; `layout` has the names that the vectors
    get there, `names` those that differ from their model keys.
    """

    bundle: Path
    points_file: Path
    source: str
    collection: str
    points: int
    bytes: int
    sha256: str
    ids: IdArray
    layout: CollectionLayout
    names: Mapping[str, str]
    tuning: Tuning

    def batches(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        max_bytes: int = MAX_BATCH_BYTES,
    ) -> Iterator[list[Point]]:
        """Yield the points from a row on, with their vectors' names there."""
        for batch in read_batches(
            self.points_file, start=start, stop=stop, max_bytes=max_bytes
        ):
            yield [self._renamed(point) for point in batch]

    def batches_of(self, ids: Collection[str]) -> Iterator[list[Point]]:
        """Yield the points with these ids, in batches."""
        wanted = set(ids)
        for batch in self.batches():
            found = [point for point in batch if point["id"] in wanted]
            if found:
                yield found

    def every(self, step: int, stop: int | None = None) -> Iterator[Point]:
        """Yield every `step`-th point of the first `stop`, the first included."""
        for line in islice(read_lines(self.points_file), stop):
            if (line.number - 1) % step == 0:
                yield self._renamed(_parse(self.points_file, line))

    def _renamed(self, point: Point) -> Point:
        vectors = point["vector"]
        named = {self.names.get(key, key): value for key, value in vectors.items()}
        return {**point, "vector": named}


@dataclass(frozen=True, slots=True)
class _Scan:
    rows: int
    sha256: str
    ids: IdArray


def plan_upload(
    bundle: Path,
    collection: str | None = None,
    *,
    tuning: Tuning | None = None,
    names: Mapping[str, str] | None = None,
) -> UploadPlan:
    """Return what uploading `bundle` means; its own name serves unless one is given.

    `names` gives vectors other names than their model keys or those of `tuning`.

    Raises:
        BundleError: the folder is no bundle, or its points are incomplete or damaged.
        DeliveryError: the points are in the simple layout or of an unknown kind.
        UsageError: the collection name is one that Qdrant does not allow, or a vector
            that is to be named is not in the bundle.
    """
    manifest = Manifest.read(bundle)
    points_file = bundle / BundleNames(manifest.collection).points
    if not points_file.is_file():
        listed = points_file.name in {a.path for a in manifest.artifacts}
        raise BundleError(
            f"{bundle} holds no {points_file.name}.",
            cure=repair_cure(bundle, " --chunked-dir DIR")
            if listed
            else "Build it with the export 'jsonl'.",
        )
    layout = _layout(points_file, manifest)
    scan = _scan(points_file)
    _check_scan(points_file, scan, manifest)
    tuning = tuning or preset(DEFAULT)
    renames = _renames(layout, tuning, names or {})
    return UploadPlan(
        bundle=bundle,
        points_file=points_file,
        source=manifest.collection,
        collection=checked_name(collection, manifest.collection),
        points=scan.rows,
        bytes=points_file.stat().st_size,
        sha256=scan.sha256,
        ids=scan.ids,
        layout=layout.renamed(renames),
        names=renames,
        tuning=tuning,
    )


def checked_name(given: str | None, own: str) -> str:
    """Return the name of a collection, or the bundle's own.

    Raises:
        UsageError: Qdrant, or a folder, cannot have a collection of that name.
    """
    name = own if given is None else given
    if not name.strip() or _REFUSED_IN_NAMES.search(name) or name in {".", ".."}:
        raise UsageError(
            f"{name!r} cannot be the name of a collection.",
            cure="Give another with --collection.",
        )
    return name


def read_batches(
    path: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    max_points: int = MAX_BATCH_POINTS,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[list[Point]]:
    """Yield the points of a JSONL file from row `start` to before row `stop`, in order,
    in bounded batches.

    A batch holds at most `max_points` points and `max_bytes` of JSON, except that a
    single larger point travels alone.

    Raises:
        BundleError: a line is no point; names the line.
    """
    batch: list[Point] = []
    size = 0
    for line in islice(read_lines(path), stop):
        if line.number <= start:
            continue
        length = len(line.content)
        if batch and (len(batch) >= max_points or size + length > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(_parse(path, line))
        size += length
    if batch:
        yield batch


def _scan(path: Path) -> _Scan:
    """Read the file once: its rows, its sum, and the points' ids."""
    digest = hashlib.sha256()
    packed = bytearray()
    rows = 0
    for line in read_lines(path):
        digest.update(line.content)
        if line.ended:
            digest.update(b"\n")
        packed += _id(path, line)
        rows += 1
    return _Scan(rows, digest.hexdigest(), np.frombuffer(bytes(packed), dtype="S16"))


def _id(path: Path, line: Line) -> bytes:
    first = _ID_FIRST.match(line.content)
    text = first[1].decode() if first else str(_parse(path, line)["id"])
    try:
        return id_bytes(text)
    except ValueError as error:
        raise _no_point(path, line) from error


def _check_scan(path: Path, scan: _Scan, manifest: Manifest) -> None:
    name, cure = path.name, repair_cure(path.parent)
    stated = next((a.sha256 for a in manifest.artifacts if a.path == name), None)
    if stated is not None and stated != scan.sha256:
        raise BundleError(
            f"{name} has another SHA-256 than the manifest records.", cure=cure
        )
    if manifest.chunk_count != scan.rows:
        raise BundleError(
            f"{name} holds {scan.rows} points, the manifest says "
            f"{manifest.chunk_count}.",
            cure=_CURE,
        )
    if len(np.unique(scan.ids)) < scan.rows:
        raise BundleError(f"Two points of {name} have one id.", cure=_CURE)


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
        cure=repair_cure(path.parent),
    )


def _renames(
    layout: CollectionLayout, tuning: Tuning, given: Mapping[str, str]
) -> dict[str, str]:
    """Return key -> name for vectors that are not called by their key."""
    keys = layout.vectors()
    for key, name in given.items():
        if key not in keys:
            raise UsageError(
                f"The bundle has no vector '{key}' to be named.",
                cure=f"It has: {', '.join(keys)}.",
            )
        if _REFUSED_IN_NAMES.search(name):
            raise UsageError(f"{name!r} cannot be the name of a vector.")
    named = {**tuning.names, **given}
    return {key: named[key] for key in keys if named.get(key, key) != key}


def _layout(points_file: Path, manifest: Manifest) -> CollectionLayout:
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
    kinds = {
        run.sparse_model: run.statistics.get("kind")
        for run in manifest.sparse_run or ()
    }
    dense = {k: DenseVector(len(v)) for k, v in vectors.items() if isinstance(v, list)}
    sparse = {
        key: _kind(key, kinds.get(key))
        for key, vector in vectors.items()
        if isinstance(vector, dict)
    }
    return CollectionLayout(dense, sparse)


def _kind(key: str, stated: object) -> SparseVectorKind:
    """Return a sparse vector's kind: as the manifest states, else by its model."""
    known = SPARSE_MODELS.get(key)
    kind = stated or (known.kind if known else None)
    if kind is None:
        raise DeliveryError(
            f"The sparse vector '{key}' is of no known model: whether Qdrant must "
            "apply IDF to it cannot be told.",
            cure=f"Known: {', '.join(sorted(SPARSE_MODELS))}.",
        )
    return SparseVectorKind(idf=kind in {"bm25", "attention"})
