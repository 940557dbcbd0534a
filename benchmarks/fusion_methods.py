"""Ways to join a dense and a BM25 ranking, compared on judged collections, nDCG@10.

A weight is never chosen on the set it is judged on: of each family's weights the one
with the best mean over the *other* sets is taken, among those that leave no set of at
least 200 queries significantly below its better leg (paired randomisation, p < .05).
Documents are taken whole; the vectors of the embedded MiniLM are kept in `--cache`.

    python benchmarks/fusion_methods.py DATA_FOLDER... --cache FOLDER
        [--long-texts windows|cut] [--depth N]
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder, TermCounter
from processor.ultimate_embedder.encoders.texts import TextEncoder
from processor.ultimate_embedder.evaluation.beir import (
    BeirFolder,
    find_beir_folders,
)
from processor.ultimate_embedder.evaluation.measures import Float64Array, measure
from processor.ultimate_embedder.intake.queries import read_queries
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import (
    Float32Array,
    RankedList,
    SparseVector,
)
from processor.ultimate_embedder.retrieval.fusion import FusionConfig, fuse
from processor.ultimate_embedder.retrieval.indexes import DenseIndex
from processor.ultimate_embedder.retrieval.postings import idf
from processor.ultimate_embedder.retrieval.ranking import ranked
from processor.ultimate_embedder.retrieval.significance import paired_test

MODEL = "all-miniLM-l6"
MANY_QUERIES = 200
LEGS = ("dense", "BM25")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
POINTS = (0.004, 0.008, 0.012, 0.014, 0.016, 0.018, 0.02, 0.024, 0.03, 0.04)
FAMILIES: dict[str, tuple[str, ...]] = {
    "rrf(k=60)": ("rrf(k=60)",),
    "rrf(k=10)": ("rrf(k=10)",),
    "qdrant-rrf(k=2)": ("qdrant-rrf(k=2)",),
    "dbsf()": ("dbsf()",),
    **{
        f"sum(scale={scale})": tuple(
            f"sum(scale={scale}, weights={1 - share:.1f}:{share})" for share in SHARES
        )
        for scale in ("minmax", "zscore")
    },
    "sum(scale=raw)": tuple(f"sum(scale=raw, weights=1:{points})" for points in POINTS),
}


@dataclass(frozen=True)
class JudgedSet:
    """One collection: its queries' legs, and nDCG@10 by query for every method."""

    name: str
    figures: dict[str, Float64Array]

    @property
    def queries(self) -> int:
        return len(self.figures["dense"])

    @property
    def better_leg(self) -> str:
        return max(LEGS, key=lambda leg: float(self.figures[leg].mean()))

    def mean(self, method: str) -> float:
        return float(self.figures[method].mean())

    def change(self, method: str) -> tuple[float, float]:
        """Return the difference from the better leg, and its p-value."""
        differences = self.figures[method] - self.figures[self.better_leg]
        return float(differences.mean()), paired_test([differences]).value

    def harmed(self, method: str) -> bool:
        """Whether a set with many queries is significantly below its better leg."""
        if self.queries < MANY_QUERIES:
            return False
        difference, p = self.change(method)
        return difference < 0 and p < 0.05


def judge(folder: BeirFolder, cache: Path, long_texts: str, depth: int) -> JudgedSet:
    """Rank and fuse every judged query of a collection by every method."""
    documents = folder.documents()
    names = [document.name for document in documents]
    texts = [f"{one.title} {one.text}".strip() for one in documents]
    judgements = folder.judgements()
    queries = [q for q in read_queries(folder.queries) if q.query_id in judgements]
    asked = [query.text for query in queries]
    vectors = encoded(texts, "document", cache, long_texts)
    dense = DenseIndex(vectors).search_batch(
        encoded(asked, "query", cache, long_texts), depth
    )
    sparse = bm25_rankings(texts, asked, depth)
    methods = [method for family in FAMILIES.values() for method in family]
    figures: dict[str, list[float]] = {name: [] for name in (*LEGS, *methods)}
    for query, one, other in zip(queries, dense, sparse, strict=True):
        lists = dict(zip(LEGS, (one, other), strict=True))
        for method in methods:
            config = FusionConfig.parse(method)
            lists[method] = fuse([one, other], config, depth)
        for name, ranking in lists.items():
            found = [names[row] for row in ranking.rows.tolist()]
            figures[name].append(float(measure(found, judgements[query.query_id])[0]))
    return JudgedSet(folder.name, {k: np.array(v) for k, v in figures.items()})


def encoded(
    texts: Sequence[str], role: str, cache: Path, long_texts: str
) -> Float32Array:
    """Return unit vectors of texts, from the cache where they are there."""
    key = hashlib.sha256("\0".join((MODEL, role, long_texts, *texts)).encode())
    file = cache / f"{key.hexdigest()[:24]}.npy"
    if file.is_file():
        return np.load(file)
    config = dense_model(MODEL)
    manager = ModelManager(offline=True)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.empty((len(texts), config.vector_dim), dtype=np.float32)
    with manager.resident(config) as encoder:
        found[order] = TextEncoder(
            encoder, manager.tokenizer(config), config.max_tokens, long_texts
        ).vectors([texts[row] for row in order], role)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, found)
    return found


def bm25_rankings(
    texts: Sequence[str], asked: Sequence[str], depth: int
) -> list[RankedList]:
    """Return BM25's rankings as a bundle's postings give them."""
    lengths = TermCounter().count(texts).lengths
    encoder = Bm25Encoder(average_length=float(np.mean(lengths)))
    vectors = encoder.encode_documents(texts)
    by_term: dict[int, list[tuple[int, float]]] = {}
    for row, vector in enumerate(vectors):
        pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
        for term, value in pairs:
            by_term.setdefault(term, []).append((row, value))
    population = sum(len(vector) > 0 for vector in vectors)
    return [
        _bm25_ranking(
            encoder.encode_query(text), by_term, population, len(texts), depth
        )
        for text in asked
    ]


def _bm25_ranking(
    query: SparseVector,
    by_term: dict[int, list[tuple[int, float]]],
    population: int,
    documents: int,
    depth: int,
) -> RankedList:
    totals = np.zeros(documents)
    pairs = zip(query.indices.tolist(), query.values.tolist(), strict=True)
    for term, weight in pairs:
        entries = by_term.get(term, [])
        if entries:
            rows, values = map(np.array, zip(*entries, strict=True))
            totals[rows] += weight * values * float(idf(population, len(entries)))
    rows = np.flatnonzero(totals > 0)
    found = ranked(rows, totals[rows], depth)
    return RankedList(found.rows, found.scores, 0.0 if len(rows) <= depth else None)


def chosen(family: Sequence[str], others: Sequence[JudgedSet], large_only: bool) -> str:
    """Return the method with the best mean that harms none of the sets."""
    large = [one for one in others if one.queries >= MANY_QUERIES]
    judges = large if large_only and large else others
    harmless = [m for m in family if not any(one.harmed(m) for one in others)]
    return max(
        harmless or family, key=lambda m: float(np.mean([s.mean(m) for s in judges]))
    )


def chosen_table(sets: Sequence[JudgedSet], large_only: bool) -> list[list[str]]:
    """Return the legs, then each family with what was chosen for each set.

    `large_only`: the means that decide are over the sets with many queries.
    """
    better = [one.better_leg for one in sets]
    rows = [_header(sets)]
    rows += [_row(leg, sets, [leg] * len(sets)) for leg in LEGS]
    rows.append(_row("the better leg", sets, better))
    for name, family in FAMILIES.items():
        picks = [
            chosen(family, [x for x in sets if x is not one] or sets, large_only)
            for one in sets
        ]
        rows.append(_row(name, sets, picks))
        changes = [one.change(pick) for one, pick in zip(sets, picks, strict=True)]
        means = [
            f"{a - b:+.3f}"
            for a, b in zip(_means(sets, picks), _means(sets, better), strict=True)
        ]
        rows.append(
            ["  against the better leg", *(_change(*c) for c in changes), *means]
        )
        if len(family) > 1:
            weights = [pick.partition("weights=")[2].rstrip(")") for pick in picks]
            rows.append(["  weights, chosen on the others", *weights, "", ""])
    return rows


def weights_table(sets: Sequence[JudgedSet]) -> list[list[str]]:
    """Return every method with one weight for all sets; `!`: significantly worse."""
    rows = [_header(sets)]
    for method in [method for family in FAMILIES.values() for method in family]:
        row = _row(method, sets, [method] * len(sets))
        marks = ["!" if one.harmed(method) else "" for one in sets]
        rows.append([a + b for a, b in zip(row, ["", *marks, "", ""], strict=True)])
    return rows


def _header(sets: Sequence[JudgedSet]) -> list[str]:
    names = (f"{one.name} ({one.queries})" for one in sets)
    return ["method", *names, "mean", f"mean, {MANY_QUERIES}+ queries"]


def _row(name: str, sets: Sequence[JudgedSet], picks: Sequence[str]) -> list[str]:
    figures = [one.mean(pick) for one, pick in zip(sets, picks, strict=True)]
    return [name, *(f"{value:.3f}" for value in (*figures, *_means(sets, picks)))]


def _means(sets: Sequence[JudgedSet], picks: Sequence[str]) -> tuple[float, float]:
    """Return the mean over all sets, and over those with many queries."""
    pairs = list(zip(sets, picks, strict=True))
    large = [one.mean(pick) for one, pick in pairs if one.queries >= MANY_QUERIES]
    whole = [one.mean(pick) for one, pick in pairs]
    return float(np.mean(whole)), float(np.mean(large or whole))


def _change(difference: float, p: float) -> str:
    return f"{difference:+.3f} p={p:.3f}"


def _print(title: str, rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    for row in rows:
        print("| " + " | ".join(row) + " |")
        if row is rows[0]:
            print("|" + "---|" * len(row))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--long-texts", choices=("windows", "cut"), default="windows")
    parser.add_argument("--depth", type=int, default=100)
    given = parser.parse_args()
    folders = [one for path in given.data for one in find_beir_folders(path)]
    sets = []
    for folder in folders:
        sets.append(judge(folder, given.cache, given.long_texts, given.depth))
        print(f"{folder.name}: {sets[-1].queries} queries", flush=True)
    _print("Weights with the best mean over the other sets", chosen_table(sets, False))
    _print(
        f"Weights with the best mean over the others of {MANY_QUERIES}+ queries",
        chosen_table(sets, True),
    )
    _print("One weight for all; ! significantly worse", weights_table(sets))


if __name__ == "__main__":
    main()
