"""How far an upload has come, kept on disk so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

_CHARACTERS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What an upload is: the same journey, and only it, may be gone on with."""

    points_sha256: str
    points: int
    target: str
    collection: str
    vectors: dict[str, str]
    tuning: str

    def digest(self) -> str:
        """Return hex digits that differ between targets of one bundle."""
        place = orjson.dumps([self.target, self.collection])
        return hashlib.sha256(place).hexdigest()[:_CHARACTERS]


@dataclass(slots=True)
class Cursor:
    """A file that says how many rows of a journey the target has confirmed.

    `recreated` says that the collection was made by this journey: it need not be made
    a second time. Where the file cannot be written, an interrupted upload begins anew;
    `lost` says why.
    """

    path: Path
    journey: Journey
    rows: int = 0
    recreated: bool = False
    lost: str | None = None

    @classmethod
    def load(cls, path: Path, journey: Journey) -> Cursor:
        """Return the cursor in a file; at the start where it is of another journey."""
        cursor = cls(path, journey)
        try:
            stored = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return cursor  # none yet, or torn: from the start is always right
        if isinstance(stored, dict) and stored.get("journey") == asdict(journey):
            rows = stored.get("rows")
            if type(rows) is int and 0 <= rows <= journey.points:
                cursor.rows = rows
                cursor.recreated = stored.get("recreated") is True
        return cursor

    def begin(self, *, recreated: bool) -> None:
        """Go to the start."""
        self.rows, self.recreated = 0, recreated
        self._write()

    def advance(self, rows: int) -> None:
        """Note that so many more rows were confirmed."""
        self.rows += rows
        self._write()

    def remove(self) -> None:
        """Forget the journey: it has arrived."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            self.lost = error.strerror or str(error)

    def _write(self) -> None:
        content = orjson.dumps(
            {
                "journey": asdict(self.journey),
                "rows": self.rows,
                "recreated": self.recreated,
            }
        )
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            beside.write_bytes(content)
            beside.replace(self.path)
        except OSError as error:  # a read-only data set: the upload itself is possible
            self.lost = error.strerror or str(error)


def cursor_path(bundle: Path, journey: Journey) -> Path:
    """Return where a journey's cursor lies: beside the bundle, hidden.

    Bundles of one folder share it for one target, so that a later upload of another
    bundle there ends the claim of an earlier one.
    """
    return bundle.resolve().parent / f".upload-{journey.digest()}.json"
