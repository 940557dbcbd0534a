"""What earlier runs chunked, so that a run does only what has changed."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..intake.chunks import CHUNK_FILE_SUFFIX
from ..telemetry.events import Emit, Warned
from .writer import write_whole

STATE_FILE = ".chunker_state.json"
"""In the output folder; hidden, and no chunk file by its name."""


class Entry(BaseModel):
    """One source. `settings` is a fingerprint of all else its chunks depend on."""

    model_config = ConfigDict(frozen=True)

    digest: str  # SHA-256 of the source
    settings: str
    output: str | None  # relative to the output folder; None for an empty source
    output_bytes: int = 0
    chunks: int = 0
    tokens: int = 0
    warnings: tuple[str, ...] = ()

    def holds(self, root: Path, digest: str, settings: str, output: str) -> bool:
        """Is the chunk file `output` under `root` what this entry says, still?"""
        if (self.digest, self.settings) != (digest, settings):
            return False
        if self.output is None:
            return True
        path = root / output
        return (
            self.output == output
            and path.is_file()
            and path.stat().st_size == self.output_bytes
        )


class _Document(BaseModel):
    version: int = 1
    whole: bool = True  # False while a run is under way, and after one that was stopped
    files: dict[str, Entry] = {}


class State:
    """The entries by source path (collection first), in one file of the output."""

    def __init__(self, output_dir: Path, emit: Emit) -> None:
        """Read what is there; a damaged state only means that all is done again."""
        self._root = output_dir
        self._path = output_dir / STATE_FILE
        self.files: dict[str, Entry] = {}
        self.whole = False  # do the entries own every chunk file that was written?
        self._stale: set[str] = set()
        self._changed = False
        if self._path.exists():
            try:
                found = _Document.model_validate_json(self._path.read_bytes())
                self.files, self.whole = found.files, found.whole
            except (OSError, ValidationError):
                emit(Warned(message=f"{STATE_FILE} is damaged: all is chunked again."))

    def replace(self, source: str, entry: Entry) -> None:
        """Enter a source that was chunked; the chunk file it had elsewhere is stale."""
        if self.files.get(source) != entry:
            self.forget(source)
            self.files[source] = entry
            self._changed = True

    def forget(self, source: str) -> None:
        """Drop a source that is gone or unusable; its chunk file is stale."""
        entry = self.files.pop(source, None)
        if entry is not None:
            self._changed = True
            if entry.output is not None:
                self._stale.add(entry.output)

    def unowned(self, collection: str) -> list[str]:
        """Return the chunk files below a collection that no source owns, sorted."""
        owned = {entry.output for entry in self.files.values()}
        found = (self._root / collection).rglob("*" + CHUNK_FILE_SUFFIX)
        names = (path.relative_to(self._root).as_posix() for path in found)
        return sorted(name for name in names if name not in owned)

    def save_unfinished(self) -> None:
        """Save what a run has done so far, if that is anything.

        Raises:
            OutputError: it cannot be written.
        """
        if self._changed:
            self.save(whole=False)

    def save(self, *, whole: bool) -> None:
        """Remove stale chunk files that no source owns, then write the state.

        `whole`: no chunk file was written that the state does not know of.

        Raises:
            OutputError: it cannot be written.
        """
        owned = {entry.output for entry in self.files.values()}
        for output in self._stale - owned:
            path = (self._root / output).resolve()
            # The state is a file like any other: it may not name files elsewhere.
            if path.is_relative_to(self._root.resolve()) and path.name.endswith(
                CHUNK_FILE_SUFFIX
            ):
                path.unlink(missing_ok=True)
        self._stale.clear()
        document = _Document(whole=whole, files=dict(sorted(self.files.items())))
        write_whole(self._path, document.model_dump_json(indent=1).encode())
        self._changed = False
