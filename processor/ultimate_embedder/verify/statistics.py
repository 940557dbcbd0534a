"""A bundle's statistics counted again: its chunk ids, and each source subdirectory.

What the manifest states is compared with the ids, the points and the vectors; with the
model's tokenizer tokens are counted again, and with the chunk files that the bundle was
made from it is seen whether each subfolder of them is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import BundleError
from ..export.jsonl import read_points
from ..export.layout import BundleNames
from ..export.manifest import Manifest
from ..export.vectors import open_vectors
from ..intake.chunks import ROOT_SUBDIR, CollectionFolder, read_chunk_file
from ..records import Chunk
from .chunk_ids import ChunkIdCheck, read_chunk_ids
from .rows import SeenIds

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Returns the tokens of each text as the primary model is given them."""

_TEXTS_A_CALL = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class IdFigures:
    """Chunk ids in figures; `points` is None without points, `vectors` is by model."""

    stated: int
    ids: int
    points: int | None
    vectors: dict[str, int]
    malformed: int
    repeated: int
    out_of_order: int
    differing: int  # points whose id is not that of their row

    @property
    def sound(self) -> bool:
        """Whether all counts are that of the manifest and no id is wrong."""
        counts = {self.stated, self.ids, *self.vectors.values()}
        if self.points is not None:
            counts.add(self.points)
        wrong = self.malformed + self.repeated + self.out_of_order + self.differing
        return len(counts) == 1 and not wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class SubdirFigures:
    """A source subdirectory: what is stated, and what was counted where it could be."""

    name: str
    stated_chunks: int
    stated_tokens: int
    chunks: int | None = None  # in the points
    tokens: int | None = None
    read: int | None = None  # usable chunks in the chunk files

    @property
    def sound(self) -> bool:
        """Whether nothing that was counted differs."""
        return (
            self.chunks in (None, self.stated_chunks)
            and self.tokens in (None, self.stated_tokens)
            and self.read in (None, self.stated_chunks)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The statistics of one bundle, counted again."""

    collection: str
    ids: IdFigures
    subdirs: tuple[SubdirFigures, ...]

    @property
    def sound(self) -> bool:
        """Whether everything agrees with the manifest."""
        return self.ids.sound and all(subdir.sound for subdir in self.subdirs)


def check_statistics(
    bundle: Path,
    *,
    count_tokens: CountTokens | None = None,
    source: CollectionFolder | None = None,
) -> Statistics:
    """Count again what a bundle's manifest states; memory is a few bytes a chunk.

    Raises:
        BundleError: the manifest, a point or a vector file cannot be read.
    """
    manifest = Manifest.read(bundle)
    names = BundleNames(manifest.collection)
    if not (bundle / names.ids).is_file():
        raise BundleError(
            f"{bundle} has no {names.ids}.",
            cure="Restore a copy of the bundle or build it anew.",
        )
    points = _Points(bundle / names.points, count_tokens)
    return Statistics(
        collection=manifest.collection,
        ids=_ids(bundle, manifest, names, points),
        subdirs=_subdirs(manifest, points, source),
    )


class _Points:
    """Walks the points once; afterwards the counts by source subdirectory are there."""

    def __init__(self, path: Path, count_tokens: CountTokens | None) -> None:
        self.there = path.is_file()
        self.counted_tokens = self.there and count_tokens is not None
        self.chunks = Counter[str]()
        self.tokens = Counter[str]()
        self._path = path
        self._count = count_tokens
        self._waiting: list[tuple[str, str]] = []

    def ids(self) -> Iterator[tuple[str, str]]:
        """Yield chunk id and source subdirectory of each point."""
        for point in read_points(self._path) if self.there else ():
            subdir = str(point.metadata.get("source_subdir"))
            self.chunks[subdir] += 1
            if self._count is not None:
                self._waiting.append((subdir, point.text))
                if len(self._waiting) == _TEXTS_A_CALL:
                    self._tokenise()
            yield point.chunk_id, subdir
        self._tokenise()

    def _tokenise(self) -> None:
        if self._count is None or not self._waiting:
            return
        counts = self._count([text for _, text in self._waiting])
        for (subdir, _), tokens in zip(self._waiting, counts, strict=True):
            self.tokens[subdir] += tokens
        self._waiting.clear()


def _ids(
    bundle: Path, manifest: Manifest, names: BundleNames, points: _Points
) -> IdFigures:
    check = ChunkIdCheck(manifest.collection, manifest.source_subdirs)
    seen, rows, differing, found = SeenIds(), 0, 0, 0
    others = points.ids()
    for _, _, chunk_id in read_chunk_ids(bundle / names.ids):
        check.fault(chunk_id)
        seen.add(chunk_id)
        rows += 1
        if (other := next(others, None)) is not None:
            found += 1
            differing += other[0] != chunk_id or not chunk_id.startswith(
                f"{manifest.collection}:{other[1]}:"
            )
    found += sum(1 for _ in others)
    listed = [path.name for path in bundle.iterdir()]
    return IdFigures(
        stated=manifest.chunk_count,
        ids=rows,
        points=found if points.there else None,
        vectors={
            key: len(open_vectors(bundle / names.dense(key)))
            for key in names.dense_keys(listed)
        },
        malformed=check.malformed,
        repeated=len(seen.repeated_rows()),
        out_of_order=check.out_of_order,
        differing=differing,
    )


def _subdirs(
    manifest: Manifest, points: _Points, source: CollectionFolder | None
) -> tuple[SubdirFigures, ...]:
    stated = manifest.source_subdirs
    read = usable_chunks(source) if source is not None else None
    if read is not None and manifest.conservation is not None:
        read.subtract(
            _subdir(entry.file)
            for entry in manifest.conservation.quarantined
            if entry.reason == "metadata_not_json"  # found out when it was stored
        )
    names = stated.keys() | points.chunks.keys() | (read or {}).keys()
    return tuple(
        SubdirFigures(
            name=name,
            stated_chunks=stated[name].chunks if name in stated else 0,
            stated_tokens=stated[name].tokens if name in stated else 0,
            chunks=points.chunks[name] if points.there else None,
            tokens=points.tokens[name] if points.counted_tokens else None,
            read=read[name] if read is not None else None,
        )
        for name in sorted(names)
    )


def _subdir(chunk_file: str) -> str:
    folders = PurePosixPath(chunk_file).parent.parts
    return folders[0] if folders else ROOT_SUBDIR


def usable_chunks(folder: CollectionFolder) -> Counter[str]:
    """Return how many chunks with an id of their own each source subdirectory has."""
    seen, subdirs = SeenIds(), list[str]()
    for path in folder.files:
        for item in read_chunk_file(folder, path):
            if isinstance(item, Chunk):
                seen.add(item.chunk_id)
                subdirs.append(item.source_subdir)
    counts = Counter(subdirs)
    counts.subtract(subdirs[row] for row in seen.repeated_rows())
    return counts
