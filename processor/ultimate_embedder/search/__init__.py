"""Open a bundle, or its collection in Qdrant, and query it."""

from ..delivery.opening import Server
from .bundle import Bundle, open_bundle
from .legs import StageRankings
from .qdrant import Embedded, QdrantCollection, open_qdrant
from .results import Hit, SearchResults, Stage, StageScore

__all__ = [
    "Bundle",
    "Embedded",
    "Hit",
    "QdrantCollection",
    "SearchResults",
    "Server",
    "Stage",
    "StageRankings",
    "StageScore",
    "open_bundle",
    "open_qdrant",
]
