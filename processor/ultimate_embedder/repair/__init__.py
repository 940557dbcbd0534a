"""What a damaged bundle can have back: from its own other files, or the chunk files."""

from .bundle import repair_bundle
from .report import Lost, Rebuilt, RepairReport

__all__ = ["Lost", "Rebuilt", "RepairReport", "repair_bundle"]
