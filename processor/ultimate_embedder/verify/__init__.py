"""Proof that a bundle is whole and undamaged, or where it is not."""

from .bundle import verify_bundle
from .deep import Embed
from .deep_sparse import EmbedSparse
from .report import Finding, VerificationReport
from .statistics import (
    CountTokens,
    IdFigures,
    Statistics,
    SubdirFigures,
    check_statistics,
)

__all__ = [
    "CountTokens",
    "Embed",
    "EmbedSparse",
    "Finding",
    "IdFigures",
    "Statistics",
    "SubdirFigures",
    "VerificationReport",
    "check_statistics",
    "verify_bundle",
]
