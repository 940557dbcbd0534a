"""BM25's tokenizer profiles compared on judged collections, nDCG@10 of BM25 alone.

Beside the profiles that can be asked for stand the variants of `code` that were not
chosen. Documents are taken whole, k 1.2, b 0.75, average length as measured. A figure
is followed by its ratio to `qdrant-word` and, on sets of at least 200 queries, by the
p-value of the difference (paired randomisation).

    python benchmarks/bm25_profiles.py DATA_FOLDER...
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder, TermCounter
from processor.ultimate_embedder.encoders.identifiers import IdentifierRules
from processor.ultimate_embedder.encoders.words import (
    CODE,
    FASTEMBED,
    QDRANT_WORD,
    WordProfile,
    code_profile,
    word_profile,
)
from processor.ultimate_embedder.evaluation.beir import (
    BeirFolder,
    find_beir_folders,
)
from processor.ultimate_embedder.evaluation.measures import Float64Array, measure
from processor.ultimate_embedder.intake.queries import read_queries
from processor.ultimate_embedder.records import SparseMatrix, SparseVector
from processor.ultimate_embedder.retrieval.indexes import SparseIndex
from processor.ultimate_embedder.retrieval.postings import Postings, write_postings
from processor.ultimate_embedder.retrieval.significance import paired_test

MANY_QUERIES = 200
VARIANTS: Mapping[str, IdentifierRules] = {
    "code, parts only": IdentifierRules(whole=False, joined=False, shortest=1),
    "code, parts and joined": IdentifierRules(whole=False),
    "code, not joined": IdentifierRules(joined=False),
    "code, digits not cut": IdentifierRules(digits=False),
    "code, parts of one character": IdentifierRules(shortest=1),
}


@dataclass(frozen=True)
class JudgedSet:
    """One collection: nDCG@10 by query for every profile."""

    name: str
    figures: dict[str, Float64Array]

    @property
    def queries(self) -> int:
        return len(self.figures[QDRANT_WORD])

    def mean(self, profile: str) -> float:
        return float(self.figures[profile].mean())

    def cell(self, profile: str) -> str:
        """Return the figure, its ratio to qdrant-word, and p where queries are many."""
        shown = f"{self.mean(profile):.3f}"
        if profile == QDRANT_WORD:
            return shown
        shown += f" x{self.mean(profile) / self.mean(QDRANT_WORD):.3f}"
        if self.queries < MANY_QUERIES:
            return shown
        differences = self.figures[profile] - self.figures[QDRANT_WORD]
        return f"{shown} p={paired_test([differences]).value:.3f}"


def contenders() -> dict[str, WordProfile]:
    """Return the profiles by the name of their row."""
    named = {name: word_profile(name) for name in (QDRANT_WORD, FASTEMBED, CODE)}
    return named | {name: code_profile(rules) for name, rules in VARIANTS.items()}


def judge(folder: BeirFolder) -> JudgedSet:
    """Rank every judged query of a collection by every profile."""
    documents = list(folder.documents())
    names = [document.name for document in documents]
    texts = [f"{one.title} {one.text}".strip() for one in documents]
    judgements = folder.judgements()
    queries = [q for q in read_queries(folder.queries) if q.query_id in judgements]
    figures: dict[str, Float64Array] = {}
    for name, profile in contenders().items():
        rankings = ranked_rows(profile, texts, [query.text for query in queries])
        figures[name] = np.array(
            [
                measure([names[row] for row in rows], judgements[query.query_id])[0]
                for query, rows in zip(queries, rankings, strict=True)
            ]
        )
    return JudgedSet(folder.name, figures)


def ranked_rows(
    profile: WordProfile, texts: Sequence[str], asked: Sequence[str]
) -> list[list[int]]:
    """Return the ten best rows for each query, from postings as a bundle has them."""
    average = float(np.mean(TermCounter(profile).count(texts).lengths))
    encoder = Bm25Encoder(profile, average_length=average)
    matrix = stacked(encoder.encode_documents(texts))
    with tempfile.TemporaryDirectory() as folder:
        write_postings(matrix, Path(folder), average_length=average)
        index = SparseIndex(Postings.open(Path(folder)), idf=True)
        return [
            index.search(encoder.encode_query(text), 10).rows.tolist() for text in asked
        ]


def stacked(vectors: Sequence[SparseVector]) -> SparseMatrix:
    """Return vectors as the rows of one matrix."""
    sizes = [len(vector) for vector in vectors]
    return SparseMatrix(
        indptr=np.cumsum([0, *sizes], dtype=np.int64),
        indices=np.concatenate([vector.indices for vector in vectors]),
        values=np.concatenate([vector.values for vector in vectors]),
    )


def table(sets: Sequence[JudgedSet]) -> list[list[str]]:
    """Return the rows of the table: a profile a row, a set a column, then the mean."""
    rows = [["profile", *(f"{one.name} ({one.queries})" for one in sets), "mean"]]
    base = float(np.mean([one.mean(QDRANT_WORD) for one in sets]))
    for name in contenders():
        mean = float(np.mean([one.mean(name) for one in sets]))
        cells = [one.cell(name) for one in sets]
        rows.append([name, *cells, f"{mean:.4f} x{mean / base:.3f}"])
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    given = parser.parse_args()
    folders = [one for path in given.data for one in find_beir_folders(path)]
    sets = [judge(folder) for folder in folders]
    rows = table(sets)
    for row in rows:
        print("| " + " | ".join(row) + " |")
        if row is rows[0]:
            print("|" + "---|" * len(row))


if __name__ == "__main__":
    main()
