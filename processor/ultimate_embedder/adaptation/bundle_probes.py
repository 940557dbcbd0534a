"""Probes of a bundle, ranked as its own search would, each answer without its question.

What asks was taken from the chunk that answers, so that chunk is matched by its text
without those words; all others are matched as stored. A reranker is trained and judged
on texts, and there every candidate is read without what names it: an answer would else
be told by the heading that it lacks, and not by what it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import RERANK_CANDIDATES
from ..encoders.bm25 import Bm25Encoder
from ..encoders.sparse_queries import query_encoder
from ..encoders.texts import TextEncoder
from ..errors import BundleError, UsageError
from ..models.manager import ModelManager
from ..records import Chunk, Query, SparseInferenceRun, SparseVector
from ..retrieval.masking import without_question
from ..retrieval.probes import Probe, draw_probes, file_of
from ..retrieval.questions import find_name
from ..search.depth import fusion_depth
from ..search.loading import dense_config
from ..search.parts import Parts, fused_sparse_run
from ..stages.fusion import (
    DenseLeg,
    FusionStage,
    Leg,
    MaskedRow,
    QueryRankings,
    SparseLeg,
)
from ..telemetry.events import silent
from .fusion_advice import ProbeLists
from .groups import Group, make_group

_TRAINED_SHARE = 70  # percent of the probes
_LOOKED_AT = 8  # one in so many of these only tells when to stop

LegsOf = Callable[[Sequence[Query], Sequence[str]], list[Leg]]
"""Queries and masked texts to the legs that are fused, dense first."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A probe with the rankings of its legs, and their fusion as a group.

    `group` is None where the answer is not in the fused list.
    """

    query: Query
    lists: ProbeLists
    group: Group | None


@dataclass(frozen=True, slots=True)
class Split:
    """Probes for training, for choosing when to stop, and for judging alone."""

    trained: tuple[Ranked, ...]
    chosen: tuple[Ranked, ...]
    judged: tuple[Ranked, ...]

    @property
    def parts(self) -> tuple[tuple[Ranked, ...], ...]:
        """All three, in this order."""
        return self.trained, self.chosen, self.judged

    @property
    def probes(self) -> int:
        """How many there are together."""
        return sum(map(len, self.parts))


def split(probes: Sequence[Ranked]) -> Split:
    """Return the probes in three parts by a hash of their ids: 70 % and 30 % judged."""
    places = [_place(probe.query.query_id) for probe in probes]
    parts: tuple[list[Ranked], ...] = ([], [], [])
    for probe, place in zip(probes, places, strict=True):
        if place % 100 >= _TRAINED_SHARE:
            parts[2].append(probe)
        else:
            parts[place // 100 % _LOOKED_AT == 0].append(probe)
    return Split(*(tuple(part) for part in parts))


def groups(probes: Sequence[Ranked]) -> list[Group]:
    """Return the groups of the probes whose answers were found."""
    return [probe.group for probe in probes if probe.group is not None]


def candidate_groups(probes: Sequence[Ranked], candidates: int) -> list[Group]:
    """Return the groups cut to the first candidates, where the answer is among them."""
    cut = [group.first(candidates) for group in groups(probes)]
    return [group for group in cut if group is not None]


def bundle_chunks(parts: Parts) -> Iterator[Chunk]:
    """Yield a bundle's chunks by row.

    Raises:
        UsageError: the bundle holds no texts.
    """
    for row in range(len(parts.ids)):
        yield _chunk_at(parts, row)


def rank_probes(
    parts: Parts,
    legs_of: LegsOf,
    count: int,
    seed: int,
    candidates: int = RERANK_CANDIDATES,
) -> list[Ranked]:
    """Return at most `count` probes of a bundle, ranked and fused as by its search.

    z-scores of fused scores are those over the first `candidates`, as in a blend.

    Raises:
        UsageError: the bundle holds no texts.
        ModelNotAvailable: a model that made the bundle is not here.
    """
    probes = draw_probes(bundle_chunks(parts), count, seed)
    if not probes:
        return []
    queries = [probe.query for probe in probes]
    legs = legs_of(queries, [probe.masked_text for probe in probes])
    texts = UnnamedTexts(parts)
    stage = FusionStage(parts.fusion_of(len(legs)), parts.manifest.collection, silent)
    keys = [leg.key for leg in legs]
    masked = [MaskedRow(probe.row, probe.masked_text) for probe in probes]
    found = stage.run(queries, legs, keys, fusion_depth(candidates), masked)
    return [
        _ranked(texts, probe, rankings, keys, candidates)
        for probe, rankings in zip(probes, found.rankings, strict=True)
    ]


def manifest_legs(parts: Parts, manager: ModelManager) -> LegsOf:
    """Return what makes the fused legs of a bundle with the models of its manifest."""

    def legs(queries: Sequence[Query], masked: Sequence[str]) -> list[Leg]:
        texts = [query.text for query in queries]
        found: list[Leg] = []
        if "dense" in parts.fused_legs:
            found.append(_dense_leg(parts, manager, texts, masked))
        if "sparse" in parts.fused_legs:
            found.append(_sparse_leg(parts, texts, masked))
        return found

    return legs


def _dense_leg(
    parts: Parts, manager: ModelManager, queries: Sequence[str], masked: Sequence[str]
) -> DenseLeg:
    run = next(
        (run for run in parts.manifest.dense_run or () if run.model == parts.primary),
        None,
    )
    if run is None or parts.dense is None:
        raise BundleError(
            "The manifest does not say which dense model made this bundle.",
            cure="Build the bundle anew.",
        )
    config = dense_config(run)
    with manager.resident(config) as encoder:
        encode = TextEncoder(
            encoder, manager.tokenizer(config), config.max_tokens, run.long_texts
        )
        asked = encode.vectors(queries, "query")
        answers = encode.vectors(masked, "document")
    return DenseLeg(run.model, parts.dense, asked, answers)


def _sparse_leg(
    parts: Parts, queries: Sequence[str], masked: Sequence[str]
) -> SparseLeg:
    run = fused_sparse_run(parts.manifest)
    live = run is not None and not run.fallback_used
    if run is None or parts.sparse is None or not live or _kind(run) != "bm25":
        raise UsageError(
            "Only bundles that fuse dense and BM25 rankings, or dense ones alone, can "
            "be adapted to."
        )
    encoder = query_encoder(run)
    vectors = [encoder.encode_query(text) for text in queries]
    return SparseLeg(run.sparse_model, parts.sparse, vectors, _bm25(run, masked))


def _kind(run: SparseInferenceRun) -> str:
    return str(run.statistics.get("kind", ""))


def _bm25(run: SparseInferenceRun, texts: Sequence[str]) -> list[SparseVector]:
    statistics = run.statistics
    encoder = Bm25Encoder(
        statistics["profile"], average_length=statistics["average_length"]
    )
    return encoder.encode_documents(texts)


def _ranked(
    texts: UnnamedTexts,
    probe: Probe,
    rankings: QueryRankings,
    keys: Sequence[str],
    candidates: int,
) -> Ranked:
    lists = ProbeLists(tuple(rankings.legs[key] for key in keys), probe.row)
    text = probe.query.text
    group = make_group(
        text, "probe", rankings.fused, probe.row, texts.of_row, candidates
    )
    return Ranked(probe.query, lists, group)


class UnnamedTexts:
    """Texts of a bundle's chunks, each without its heading, docstring or title."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._known: dict[int, str] = {}

    def of_row(self, row: int) -> str:
        """Return a chunk's text without what names the chunk."""
        if row not in self._known:
            chunk = _chunk_at(self._parts, row)
            name = find_name(chunk, alone=self._is_alone(row, chunk))
            text = chunk.text
            if name is not None:
                text = without_question(text, name.text, name.span)
            self._known[row] = text
        return self._known[row]

    def _is_alone(self, row: int, chunk: Chunk) -> bool:
        """Say whether no chunk beside this one is of the same file."""
        rows = (at for at in (row - 1, row + 1) if 0 <= at < len(self._parts.ids))
        beside = (_chunk_at(self._parts, at) for at in rows)
        return all(file_of(chunk) != file_of(other) for other in beside)


def _chunk_at(parts: Parts, row: int) -> Chunk:
    if parts.points is None:
        raise UsageError(
            "Adapting reads texts; this bundle holds none.",
            cure="Build it with jsonl among the exports.",
        )
    point = parts.points[row]
    collection = parts.manifest.collection
    return _chunk(collection, parts.ids[row]["chunk_id"], point.get("payload", point))


def _chunk(collection: str, chunk_id: str, payload: dict[str, Any]) -> Chunk:
    metadata = payload["metadata"]
    place, _, index = chunk_id.removeprefix(f"{collection}:").rpartition(":chunk:")
    subdir = str(metadata.get("source_subdir") or place.partition(":")[0])
    return Chunk(
        chunk_id=chunk_id,
        collection=collection,
        source_subdir=subdir,
        filename=place.removeprefix(f"{subdir}:"),
        index=int(index),
        text=payload["text"],
        metadata=metadata,
    )


def _place(query_id: str) -> int:
    digest = hashlib.blake2b(query_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
