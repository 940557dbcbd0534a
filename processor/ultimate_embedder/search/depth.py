"""How long the lists are that are fused: one rule for a run and for any search."""

from __future__ import annotations

from ..config import RERANK_CANDIDATES


def fusion_depth(candidates: int, top_k: int = 1) -> int:
    """Return how many rows each list holds when `candidates` are reranked.

    A sum counts a row that a list lacks as that list's last: lists of other lengths
    give the same row another score. So the length does not follow from whether anything
    is reranked, and candidates are cut off after the fusion.
    """
    return max(RERANK_CANDIDATES, candidates, top_k)
