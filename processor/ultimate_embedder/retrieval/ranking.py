"""Ranked lists made one way everywhere: by score, then by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..records import Int64Array, RankedList

Float64Array = npt.NDArray[np.float64]


def ranked(
    rows: Int64Array, scores: Float64Array, limit: int | None = None
) -> RankedList:
    """Return the rows by falling score, equal scores by rising row, cut to `limit`.

    Shapes: both [n]; each row stands once.
    """
    if limit is not None and limit < len(rows):
        rows, scores = _best(rows, scores, limit)
    order = np.lexsort((rows, -scores))[:limit]
    return RankedList(
        rows=np.asarray(rows[order], dtype=np.int64),
        scores=np.asarray(scores[order], dtype=np.float64),
    )


def cut_to(ranking: RankedList, depth: int) -> RankedList:
    """Return the ranking as a search for its first `depth` rows would have found it."""
    rest = ranking.rest if len(ranking) <= depth else None
    return RankedList(ranking.rows[:depth], ranking.scores[:depth], rest)


def followed_by(ranking: RankedList, other: RankedList) -> RankedList:
    """Return this ranking with the rows that only `other` lists behind it.

    Scores behind it are lower by one each: they tell the order alone.
    """
    rows = other.rows[~np.isin(other.rows, ranking.rows)]
    last = float(ranking.scores[-1]) if len(ranking) else 0.0
    scores = last - 1.0 - np.arange(len(rows))
    return RankedList(np.append(ranking.rows, rows), np.append(ranking.scores, scores))


def rank_of(result: RankedList, row: int) -> int | None:
    """Return the rank of a row, counted from 1, or None where it is not listed."""
    places = np.flatnonzero(result.rows == row)
    return int(places[0]) + 1 if len(places) else None


def replace_score(
    result: RankedList, row: int, score: float | None, limit: int
) -> RankedList:
    """Return the first `limit` places as if `row` had had another score.

    `result` must be the best `limit + 1` rows (or all there are): then the row that
    moves up when `row` falls out is known and the answer is exact. A score of None
    takes the row out.
    """
    others = result.rows != row
    rows, scores = result.rows[others], result.scores[others]
    if score is not None:
        rows = np.append(rows, np.int64(row))
        scores = np.append(scores, np.float64(score))
    rest = result.rest if len(rows) <= limit else None
    return replace(ranked(rows, scores, limit), rest=rest)


def _best(
    rows: Int64Array, scores: Float64Array, limit: int
) -> tuple[Int64Array, Float64Array]:
    """Drop what cannot be among the first `limit`; ties at the edge stay in."""
    if limit <= 0:
        return rows[:0], scores[:0]
    edge = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    keep = scores >= edge
    return rows[keep], scores[keep]
