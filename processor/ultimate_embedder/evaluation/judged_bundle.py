"""One opened bundle against judged queries: the report of one set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import InputError
from ..records import Query
from ..search import Bundle
from ..telemetry.events import Emit
from .card import card_agreement
from .documents import DocumentRanking, RowDocuments
from .judge import JudgedStages, judge, stage_table
from .judgements import Judgements
from .ranking import QueryRanker, draw_queries
from .report import SetReport


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationChoices:
    """How many queries are reranked (below 0: all), how deep, and the seed.

    No `rerank_depth`: as many candidates as a search in the bundle reranks.
    """

    rerank_queries: int = 100
    rerank_depth: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries with a relevant document, and what was left out on the way.

    `judgements` holds those queries alone.
    """

    queries: tuple[Query, ...]
    judgements: Judgements
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """A set's report, with what means over sets and run files are made from."""

    report: SetReport
    whole: JudgedStages = field(repr=False)
    reranked: JudgedStages | None = field(repr=False)
    rankings: Mapping[str, Mapping[str, DocumentRanking]] = field(repr=False)


def judged_queries(queries: Sequence[Query], judgements: Judgements) -> JudgedQueries:
    """Return the queries that can be judged: those with a relevant document.

    Raises:
        InputError: there is none.
    """
    relevant = {
        name
        for name, judged in judgements.items()
        if any(gain > 0 for gain in judged.values())
    }
    kept = tuple(query for query in queries if query.query_id in relevant)
    if not kept:
        raise InputError(
            "No query has a relevant document among the judgements (queries: "
            f"{len(queries):,}, judged: {len(judgements):,}).",
            cure="Check that the ids in both files are the same.",
        )
    ids = {query.query_id for query in queries}
    notes = [
        (len(queries) - len(kept), "Queries without a relevant document"),
        (len(judgements.keys() - ids), "Judged queries without a text"),
    ]
    return JudgedQueries(
        kept,
        {query.query_id: judgements[query.query_id] for query in kept},
        tuple(f"{what}, left out: {count:,}." for count, what in notes if count),
    )


def evaluate_bundle(
    bundle: Bundle,
    documents: RowDocuments,
    judged: JudgedQueries,
    choices: EvaluationChoices,
    emit: Emit,
    *,
    treatment: str | None = None,
) -> JudgedSet:
    """Return the figures of every stage that the bundle has.

    Raises:
        InputError: no judged document is in the bundle.
        ModelNotAvailable: no ranking can be made.
    """
    unknown = _unknown(documents, judged)
    depth = choices.rerank_depth or bundle.rerank_candidates
    ranker = QueryRanker(bundle, documents, depth, emit)
    drawn = draw_queries(judged.queries, choices.rerank_queries)
    runs = ranker.run(judged.queries, drawn)
    whole, reranked = judge(runs.rankings, judged.judgements)
    all_stages = stage_table([whole], choices.seed)
    over_reranked = stage_table([reranked], choices.seed) if reranked else None
    report = SetReport(
        name=bundle.manifest.collection,
        treatment=treatment,
        documents=len(documents),
        chunks=len(bundle),
        unit=documents.unit,
        queries=len(judged.queries),
        all_stages=all_stages,
        reranked=over_reranked,
        missing=runs.missing,
        card=card_agreement(bundle.manifest, all_stages, over_reranked),
        notes=(*judged.notes, *unknown),
    )
    return JudgedSet(report, whole, reranked, runs.rankings)


def _unknown(documents: RowDocuments, judged: JudgedQueries) -> list[str]:
    """Say how many judged ids are no document here. They stay in the ideal ranking."""
    ids = {name for one in judged.judgements.values() for name in one}
    unknown = ids.difference(documents.names)
    if unknown == ids:
        raise InputError(
            f"No judged document is in the bundle (judged: {len(ids):,}), e.g. "
            f"'{min(ids)}'.",
            cure="Judged ids are chunk ids, sources (subdir/file) or file names.",
        )
    if not unknown:
        return []
    return [
        f"Judged documents that are not in the bundle: {len(unknown):,} of "
        f"{len(ids):,}, e.g. '{min(unknown)}'. They count as not found."
    ]
