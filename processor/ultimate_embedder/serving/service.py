"""What the service does, without HTTP: questions to bundles, answers as records."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..errors import EmbedderError, ModelNotAvailable, UsageError
from ..records import RankedList
from ..search import Bundle, Hit, SearchResults, Stage
from .highlights import Highlighter
from .schemas import (
    ChunkResponse,
    CollectionInfo,
    Place,
    SearchHit,
    SearchRequest,
    SearchResponse,
)

_WARM_UP = "warm up"


class NotFound(EmbedderError):
    """There is no such collection or chunk."""


class SearchService:
    """Answers from open bundles, by collection. Threads may ask at the same time."""

    def __init__(self, bundles: Mapping[str, Bundle]) -> None:
        self._bundles = dict(bundles)
        self._highlighters = {
            name: Highlighter.of(bundle.manifest) for name, bundle in bundles.items()
        }
        self._lacking: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._bundles)

    def warm_up(self) -> dict[str, str]:
        """Load the models, so that the first question does not wait for them.

        Return by collection why it cannot rerank although it was built to; from then
        on `collections` says so too.

        Raises:
            ModelNotAvailable: a model of the fused ranking cannot be had.
        """
        for name, bundle in self._bundles.items():
            if not len(bundle):
                continue
            offered = bundle.stages
            needed: tuple[Stage, ...] = ("fused",) if "fused" in offered else ()
            found = bundle.search_stages(_WARM_UP, needed=needed, rerank=False, top_k=1)
            if "reranked" in offered and "fused" in found.rankings:
                fused = found.rankings["fused"]
                first = RankedList(fused.rows[:1], fused.scores[:1])
                try:
                    bundle.rerank(_WARM_UP, first)
                except ModelNotAvailable as error:
                    self._lacking[name] = str(error)
        return dict(self._lacking)

    def close(self) -> None:
        """Let go of the models."""
        for bundle in self._bundles.values():
            bundle.close()

    def search(self, asked: SearchRequest) -> SearchResponse:
        """Return the hits of the last stage asked for.

        Raises:
            NotFound: there is no such collection.
            UsageError: a stage cannot run on this bundle, or the request makes no
                sense.
            ModelNotAvailable: a model that the stage needs cannot be had.
        """
        name, bundle = self._bundle(asked.collection)
        wanted = _stage(asked)
        started = time.perf_counter()
        found = bundle.search_stages(
            asked.query,
            needed=(wanted,),
            sparse=asked.sparse,
            rerank=asked.rerank,
            top_k=asked.top_k,
            filters=asked.filters,
        )
        highlighter = self._highlighters[name] if asked.highlight else None
        hits = {
            stage: [
                _hit(hit, asked.query, highlighter)
                for hit in bundle.hits(found, stage, asked.top_k)
            ]
            for stage in (found.rankings if asked.compare else (wanted,))
        }
        return SearchResponse(
            collection=name,
            stage=wanted,
            hits=hits[wanted],
            rankings=hits if asked.compare else {},
            missing=dict(found.missing),
            milliseconds=_milliseconds(found, time.perf_counter() - started),
        )

    def chunk(self, chunk_id: str, collection: str | None = None) -> ChunkResponse:
        """Return one chunk, looked for in one collection or in all.

        Raises:
            NotFound: there is no such collection or chunk.
        """
        names = [self._bundle(collection)[0]] if collection else list(self._bundles)
        for name in names:
            bundle = self._bundles[name]
            row = bundle.row(chunk_id)
            if row is not None:
                return _chunk(name, bundle, row)
        raise NotFound("There is no chunk of this id.")

    def collections(self) -> list[CollectionInfo]:
        """Return what each collection offers, by name."""
        return [
            _info(name, self._bundles[name], self._lacking.get(name))
            for name in sorted(self._bundles)
        ]

    def _bundle(self, name: str | None) -> tuple[str, Bundle]:
        known = ", ".join(sorted(self._bundles))
        if name is None:
            if len(self._bundles) == 1:
                return next(iter(self._bundles.items()))
            raise UsageError(
                "Several collections are served.", cure=f"Name one of: {known}."
            )
        if name not in self._bundles:
            raise NotFound("There is no such collection.", cure=f"There are: {known}.")
        return name, self._bundles[name]


def _milliseconds(found: SearchResults, total: float) -> dict[str, float]:
    stages: dict[str, float] = {
        stage: seconds * 1000 for stage, seconds in found.seconds.items()
    }
    return stages | {"total": total * 1000}


def _stage(asked: SearchRequest) -> Stage:
    if asked.rerank:
        return "reranked"
    return "fused" if asked.sparse else "dense"


def _hit(hit: Hit, query: str, highlighter: Highlighter | None) -> SearchHit:
    spans = highlighter.spans(query, hit.text) if highlighter and hit.text else []
    return SearchHit(
        rank=hit.rank,
        score=hit.score,
        chunk_id=hit.chunk_id,
        text=hit.text,
        metadata=dict(hit.metadata),
        stages={
            stage: Place(rank=place.rank, score=place.score)
            for stage, place in hit.stages.items()
        },
        highlights=spans,
    )


def _chunk(name: str, bundle: Bundle, row: int) -> ChunkResponse:
    chunk_id, text, metadata = bundle.chunk(row)
    rows = _rows_of_file(bundle, row)
    return ChunkResponse(
        collection=name,
        chunk_id=chunk_id,
        row=row,
        text=text,
        metadata=metadata,
        number=row - rows.start + 1,
        of=len(rows),
        before=bundle.chunk_id(row - 1) if row > rows.start else None,
        after=bundle.chunk_id(row + 1) if row + 1 < rows.stop else None,
    )


def _rows_of_file(bundle: Bundle, row: int) -> range:
    """Return the rows of a row's source file, which follow one another."""
    file = _file(bundle.chunk_id(row))
    if not file:
        return range(row, row + 1)
    start, stop = row, row + 1
    while start > 0 and _file(bundle.chunk_id(start - 1)) == file:
        start -= 1
    while stop < len(bundle) and _file(bundle.chunk_id(stop)) == file:
        stop += 1
    return range(start, stop)


def _file(chunk_id: str) -> str:
    """Return what an id says of its file; "" where it has another form."""
    return chunk_id.rpartition(":chunk:")[0]


def _info(name: str, bundle: Bundle, lacks_rerank: str | None) -> CollectionInfo:
    manifest = bundle.manifest
    fusion = manifest.fusion_run
    missing = dict(bundle.missing)
    if lacks_rerank:
        missing["reranked"] = lacks_rerank
    return CollectionInfo(
        name=name,
        chunks=len(bundle),
        source_subdirs={
            subdir: counts.chunks for subdir, counts in manifest.source_subdirs.items()
        },
        stages={
            stage: by for stage, by in bundle.stages.items() if stage not in missing
        },
        missing=missing,
        generated_at=str(manifest.generated_at),
        quality=fusion.quality_card if fusion else None,
    )
