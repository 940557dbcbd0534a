"""Proof that a bundle is whole and undamaged, or where it is not."""

from .bundle import verify_bundle
from .deep import Embed
from .report import Finding, VerificationReport

__all__ = ["Embed", "Finding", "VerificationReport", "verify_bundle"]
