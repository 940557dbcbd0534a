"""Open a bundle and query it."""

from .bundle import Bundle, open_bundle
from .legs import StageRankings
from .results import Hit, SearchResults, Stage, StageScore

__all__ = [
    "Bundle",
    "Hit",
    "SearchResults",
    "Stage",
    "StageRankings",
    "StageScore",
    "open_bundle",
]
