"""Fetching models ahead of a run, and keeping the commits that were taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import RerankingConfig
from ..encoders.hub import Hub, with_retries
from ..encoders.sources import Origin
from ..errors import ModelNotAvailable
from .entries import Entry, FileNeed
from .inventory import folder_bytes
from .lock import MAIN, is_commit, read_lock, write_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Where a model is now. `commit` is None where it did not come from the hub."""

    key: str
    path: Path | None
    origin: Origin | None  # None: it needs no files
    commit: str | None
    bytes: int


def fetch_model(
    entry: Entry, *, hub: Hub, lock_path: Path, update: bool = False
) -> Fetched:
    """Have a model's files on this machine, and its commit in the lock.

    The commit is the one in the lock; `update` asks the hub anew what a branch is at.

    Raises:
        ModelNotAvailable: they cannot be had, or the model is not run here.
        ModelError: it needs code of its own, and is not trusted.
        OutputError: the cache or the lock cannot be written to.
        UsageError: the lock cannot be read.
    """
    need = entry.files
    if need is None:
        return Fetched(key=entry.key, path=None, origin=None, commit=None, bytes=0)
    if isinstance(entry.config, RerankingConfig) and entry.config.listwise:
        raise ModelNotAvailable(
            f"{entry.key} ranks whole lists with code of its own, which is not run.",
            cure="Choose another reranker of 'models list'.",
        )
    at = _commit(need, hub, lock_path, update)
    found = need.locate(offline=False, hub=hub, at=at)
    commit = found.revision if found.origin in ("cache", "hub") else None
    if commit is not None and not is_commit(need.revision):
        lock = read_lock(lock_path).with_commit(need.model, need.revision, commit)
        write_lock(lock_path, lock)
    return Fetched(
        key=entry.key,
        path=found.path,
        origin=found.origin,
        commit=commit,
        bytes=folder_bytes(found.path),
    )


def _commit(need: FileNeed, hub: Hub, lock_path: Path, update: bool) -> str | None:
    """Return the commit to take, None: the one that the cache or the hub names."""
    if update and not is_commit(need.revision):
        reference = need.revision or MAIN
        commit = with_retries(lambda: hub.listing(need.model, reference)).commit
        hub.remember(need.model, reference, commit)
        return commit
    return read_lock(lock_path).pinned(need.model, need.revision)
