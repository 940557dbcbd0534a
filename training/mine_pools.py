"""Pools of documents and queries, each imitating one collection."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.mine_pairs import Pair, digest, words

QUERIES_OF_PACKAGE = 1500
QUERIES_OF_DOCUMENT = 3
# More pairs are drawn than wanted, since some turn out to have two answers.
SURPLUS = 1.5
GRAM = 4
LONG_QUERY = 5
MENTIONS = 2
# How soon a kind is drawn beside the others; what is rare and natural comes first.
WEIGHTS = {
    "question": 10.0,
    "citation": 8.0,
    "sentence-command": 8.0,
    "comment-command": 8.0,
    "reference": 6.0,
    "example-command": 6.0,
    "docstring-command": 5.0,
    "option-command": 5.0,
    "summary-notes": 5.0,
    "definition": 5.0,
    "first-sentence": 4.0,
    "first-sentence-notes": 4.0,
    "heading": 3.0,
    "definition-term": 3.0,
    "sentence-code": 3.0,
    "command-summary": 3.0,
    "step-command": 3.0,
    "docstring-reference": 2.5,
    "first-sentence-module": 2.0,
    "operation": 2.0,
    "operation-example": 2.0,
    "docstring-code": 1.5,
    "docstring-full": 1.2,
}
OTHER_WEIGHT = 0.7
# The largest share of a pool's queries that a kind may have.
SHARES = {
    "test-name": 0.05,
    "class-docstring": 0.06,
    "error-message": 0.06,
    "comment-code": 0.08,
    "schema": 0.08,
    "parameter": 0.08,
    "docstring-full": 0.1,
    "docstring-code": 0.2,
}
OTHER_SHARE = 0.35


@dataclass(frozen=True)
class Limits:
    """How large a pool becomes, in queries and documents."""

    queries: int = 4000
    documents: int = 6000


@dataclass(frozen=True)
class Pool:
    """Documents by id, and pairs of a query with the id of its document."""

    name: str
    documents: dict[str, str]
    queries: list[tuple[str, Pair]]


def _order(pair: Pair) -> str:
    return hashlib.sha256(f"{pair.query}\n{pair.document}".encode()).hexdigest()


def ranked(packages: Sequence[Sequence[Pair]]) -> list[Pair]:
    """All pairs in the order in which a pool draws them.

    Within one package and kind the order is that of a hash; a pair's turn is its
    place there divided by the weight of its kind, so that kinds and packages
    alternate and every run draws the same.
    """
    turns: list[tuple[float, str, Pair]] = []
    for pairs in packages:
        counts: Counter[str] = Counter()
        for key, pair in sorted((_order(p), p) for p in set(pairs)):
            counts[pair.source] += 1
            weight = WEIGHTS.get(pair.source, OTHER_WEIGHT)
            turns.append((counts[pair.source] / weight, key, pair))
    return [pair for _, _, pair in sorted(turns, key=lambda turn: turn[:2])]


def _within(
    pairs: Iterable[Pair], owner: Mapping[Pair, int], limit: int, surplus: float
) -> Iterator[Pair]:
    """The first `limit` pairs that no kind's or package's share forbids."""
    kinds: Counter[str] = Counter()
    owners: Counter[int] = Counter()
    for pair in pairs:
        most = limit * SHARES.get(pair.source, OTHER_SHARE)
        if sum(kinds.values()) >= limit * surplus:
            return
        if (
            kinds[pair.source] < most * surplus
            and owners[owner[pair]] < QUERIES_OF_PACKAGE * surplus
        ):
            kinds[pair.source] += 1
            owners[owner[pair]] += 1
            yield pair


def build_pool(name: str, packages: Sequence[Sequence[Pair]], limits: Limits) -> Pool:
    """A pool of the packages' pairs, filled with documents that no query asks.

    Documents of the same words are one document; a query that two documents
    would answer, or that stands word for word in any document, is left out.
    """
    owner = {pair: n for n, pairs in enumerate(packages) for pair in pairs}
    order = ranked(packages)
    drawn = list(_within(order, owner, limits.queries, SURPLUS))
    documents: dict[str, str] = {}
    for pair in itertools.chain(drawn, order):
        if len(documents) >= limits.documents:
            break
        documents.setdefault(digest(pair.document), pair.document)
    drawn = [pair for pair in drawn if digest(pair.document) in documents]
    sound = _sound(drawn, documents)
    kept = set(_within((pair for _, pair in sound), owner, limits.queries, 1.0))
    queries = [(document, pair) for document, pair in sound if pair in kept]
    return Pool(name, dict(sorted(documents.items())), queries)


def _sound(pairs: list[Pair], documents: dict[str, str]) -> list[tuple[str, Pair]]:
    answers: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        answers[digest(pair.query)].add(digest(pair.document))
    quoted = _quoted({p.query for p in pairs}, documents.values())
    asked: Counter[str] = Counter()
    seen: set[str] = set()
    kept = []
    for pair in pairs:
        query, document = digest(pair.query), digest(pair.document)
        if len(answers[query]) > 1 or query in seen or pair.query in quoted:
            continue
        if asked[document] >= QUERIES_OF_DOCUMENT:
            continue
        seen.add(query)
        asked[document] += 1
        kept.append((document, pair))
    return kept


def _quoted(queries: set[str], documents: Iterable[str]) -> set[str]:
    """The queries whose words stand in their order in one of the documents.

    A short query (fewer than LONG_QUERY words) may stand in a few of them, as the
    name of a thing does in the texts that mention it.
    """
    first: dict[tuple[str, ...], list[tuple[str, list[str]]]] = defaultdict(list)
    for query in sorted(queries):
        said = words(query)
        first[tuple(said[:GRAM])].append((query, said))
    sizes = {len(gram) for gram in first}
    found: Counter[str] = Counter()
    for document in documents:
        text = words(document)
        grams = ((at, n) for n in sizes for at in range(len(text) - n + 1))
        inside: set[str] = set()
        for at, size in grams:
            for query, said in first.get(tuple(text[at : at + size]), ()):
                if text[at : at + len(said)] == said:
                    inside.add(query)
        found.update(inside)
    return {
        query
        for query, count in found.items()
        if count > (MENTIONS if len(words(query)) < LONG_QUERY else 0)
    }


def write_pool(pool: Pool, folder: Path) -> str:
    """The pool as corpus.jsonl and queries.jsonl; the SHA-256 of both together."""
    target = folder / pool.name
    target.mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": key, "text": text} for key, text in pool.documents.items()]
    queries = [
        {"_id": f"q{n}", "text": p.query, "source": p.source, "positive": document}
        for n, (document, p) in enumerate(pool.queries)
    ]
    total = hashlib.sha256()
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data = "".join(lines).encode()
        (target / f"{name}.jsonl").write_bytes(data)
        total.update(data)
    return total.hexdigest()
