"""What a repair did: which files were made again and from what, and what is lost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..export.manifest import without_surrogates


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A file that has its recorded sum again; `damage` says what it had been."""

    file: str
    source: str
    damage: str  # "missing", "differs from byte 120", "broke off at byte 7"

    def __str__(self) -> str:
        return f"{self.file}: {self.damage}; made again from {self.source}"


@dataclass(frozen=True, slots=True)
class Lost:
    """A file that stays damaged or missing, and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RepairReport:
    """`published` is the repaired bundle's folder, None where nothing was written."""

    bundle: str
    published: str | None
    intact: int
    rebuilt: tuple[Rebuilt, ...] = ()
    lost: tuple[Lost, ...] = ()
    strays: tuple[str, ...] = ()  # left in the folder although not of the bundle

    @property
    def whole(self) -> bool:
        """Whether every file has its recorded sum and no other one is there."""
        return not self.lost and not self.strays

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data."""
        document: dict[str, Any] = without_surrogates(asdict(self))
        return {"whole": self.whole, **document}
