"""Groups for training: a pool's queries, each with what our own search finds for it.

The legs are those of the profile `embedded`: the dense model and BM25, fused as the
catalogue says. A query whose answer is not among the first candidates gives no group.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from processor.ultimate_embedder.adaptation.groups import Group, make_group, thinned
from processor.ultimate_embedder.config import RERANK_CANDIDATES
from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder, TermCounter
from processor.ultimate_embedder.encoders.texts import TextEncoder
from processor.ultimate_embedder.errors import InputError
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import (
    Query,
    RankedList,
    SparseMatrix,
    SparseVector,
)
from processor.ultimate_embedder.retrieval.fusion import DEFAULT_FUSION
from processor.ultimate_embedder.retrieval.indexes import DenseIndex, SparseIndex
from processor.ultimate_embedder.retrieval.postings import Postings, write_postings
from processor.ultimate_embedder.search.depth import fusion_depth
from processor.ultimate_embedder.stages.fusion import (
    DenseLeg,
    FusionStage,
    Leg,
    SparseLeg,
)
from processor.ultimate_embedder.telemetry.events import silent

DENSE, BM25 = "all-miniLM-l6", "qdrant-bm25"
MOST_WORDS = 40
OFTEN = 200
JUDGED = "judged"
"""The source of queries that people judged: of these all are taken."""
SELDOM = {
    "heading": 260,
    "operation": 150,
    "docstring-reference": 120,
    "docstring-code": 110,
    "docstring-full": 90,
    "class-docstring": 80,
    "error-message": 60,
    "test-name": 60,
    "schema": 60,
    "parameter": 60,
    "comment-rs": 30,
    "comment-h": 30,
    "comment-cc": 30,
    "comment-cpp": 20,
    "comment-c": 0,
    "comment-hpp": 0,
    "definition-term": 0,
    JUDGED: 10_000,
}
"""The most queries of a source in a pool, so that no source decides; others: OFTEN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChoices:
    """How much of a pool is used, and how many documents a group keeps."""

    queries: int = 650
    documents: int = 1500
    hard: int = 12
    more: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A query of a pool, and the row of the document that answers."""

    query: Query
    source: str
    answer: int
    others: frozenset[int] = frozenset()  # rows that answer as well: no negatives


def pool_sha256(pool: Path) -> str:
    """The SHA-256 of a pool's two files together, as the data card has it."""
    total = hashlib.sha256()
    for name in ("corpus.jsonl", "queries.jsonl"):
        total.update((pool / name).read_bytes())
    return total.hexdigest()


def pool_groups(
    pool: Path, choices: GroupChoices, manager: ModelManager
) -> tuple[list[Group], int]:
    """The groups of a pool, and how many queries were asked for them."""
    asked, texts = draw(pool, choices)
    if not asked:
        return [], 0
    queries = [one.query for one in asked]
    fusion = dense_model(DENSE).fusion or DEFAULT_FUSION
    with tempfile.TemporaryDirectory() as room:
        legs: list[Leg] = [
            _dense_leg(queries, texts, manager),
            _bm25_leg(queries, texts, Path(room)),
        ]
        found = FusionStage(fusion, pool.name, silent).run(
            queries, legs, [DENSE, BM25], fusion_depth(RERANK_CANDIDATES)
        )
    rng = np.random.default_rng(_number(pool.name, choices.seed))
    groups = []
    for one, rankings in zip(asked, found.rankings, strict=True):
        fused = _without(rankings.fused, one.others)
        group = make_group(
            one.query.text, one.source, fused, one.answer, texts.__getitem__
        )
        if group is not None:
            groups.append(thinned(group, choices.hard, choices.more, rng))
    return groups, len(asked)


def draw(pool: Path, choices: GroupChoices) -> tuple[list[Asked], list[str]]:
    """Some queries of a pool, and documents: their answers and others.

    Raises:
        InputError: the pool lacks a file, or an answer.
    """
    corpus = {row["_id"]: row["text"] for row in _rows(pool / "corpus.jsonl")}
    rng = np.random.default_rng(_number(pool.name, choices.seed))
    queries = _rows(pool / "queries.jsonl")
    order = [queries[place] for place in rng.permutation(len(queries))]
    judged = bool(queries) and queries[0]["source"] == JUDGED
    taken = _limited(order)[: None if judged else choices.queries]
    answers = dict.fromkeys(row["positive"] for row in taken)
    if missing := [name for name in answers if name not in corpus]:
        raise InputError(f"The pool {pool.name} has no document {missing[0]}.")
    rest = [name for name in corpus if name not in answers]
    spare = len(rest) if judged else max(0, choices.documents - len(answers))
    rest = [rest[place] for place in rng.permutation(len(rest))[:spare]]
    rows = {name: row for row, name in enumerate(sorted([*answers, *rest]))}
    asked = [
        Asked(
            Query(row["_id"], row["text"]),
            row["source"],
            rows[row["positive"]],
            frozenset(rows[name] for name in row.get("others", ()) if name in rows),
        )
        for row in taken
    ]
    return asked, [corpus[name] for name in rows]


def _limited(queries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    kept = []
    for row in queries:
        source = row["source"]
        fits = len(row["text"].split()) <= MOST_WORDS
        if fits and seen[source] < SELDOM.get(source, OFTEN):
            seen[source] += 1
            kept.append(row)
    return kept


def _without(fused: RankedList, left_out: frozenset[int]) -> RankedList:
    kept = ~np.isin(fused.rows, list(left_out))
    return RankedList(fused.rows[kept], fused.scores[kept])


def _dense_leg(
    queries: Sequence[Query], texts: Sequence[str], manager: ModelManager
) -> DenseLeg:
    config = dense_model(DENSE)
    with manager.resident(config) as encoder:
        encode = TextEncoder(
            encoder, manager.tokenizer(config), config.max_tokens, "cut"
        )
        vectors = encode.vectors(texts, "document")
        asked = encode.vectors([query.text for query in queries], "query")
    return DenseLeg(DENSE, DenseIndex(vectors), asked)


def _bm25_leg(queries: Sequence[Query], texts: Sequence[str], room: Path) -> SparseLeg:
    average = float(np.mean(TermCounter().count(texts).lengths)) or 1.0
    encoder = Bm25Encoder(average_length=average)
    write_postings(
        _matrix(encoder.encode_documents(texts)), room, average_length=average
    )
    index = SparseIndex(Postings.open(room), idf=True)
    return SparseLeg(BM25, index, [encoder.encode_query(one.text) for one in queries])


def _matrix(vectors: Sequence[SparseVector]) -> SparseMatrix:
    return SparseMatrix(
        np.cumsum([0, *map(len, vectors)], dtype=np.int64),
        np.concatenate([vector.indices for vector in vectors]),
        np.concatenate([vector.values for vector in vectors]),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(
            f"There is no {path.name} in {path.parent}.", cure="Mine the pools first."
        )
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _number(name: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}\n{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
