"""Which commit of a hub's model later runs use: a small file of references to commits.

One lies in the cache of models and travels with it; a project may keep one of its own,
under version control. `models fetch` writes it, everything else reads it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import OutputError, UsageError

LOCK_NAME = "ultimate-embedder.lock.json"
MAIN = "main"

_VERSION = 1
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*", re.ASCII)


def is_commit(revision: str | None) -> bool:
    """Say whether a revision is a full commit hash, which never changes its content."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def is_revision(reference: str) -> bool:
    """Say whether a name can be that of a commit, a branch or a tag."""
    return _REVISION.fullmatch(reference) is not None and ".." not in reference


@dataclass(frozen=True, slots=True)
class ModelLock:
    """Commits by (hub id, reference)."""

    commits: Mapping[tuple[str, str], str]

    def pinned(self, model: str, revision: str | None) -> str | None:
        """Return the commit that stands for a revision, None where none is known."""
        if is_commit(revision):
            return revision
        return self.commits.get((model, revision or MAIN))

    def with_commit(self, model: str, revision: str | None, commit: str) -> ModelLock:
        """Return the lock with one more commit, or another for the same reference."""
        return ModelLock({**self.commits, (model, revision or MAIN): commit})


NO_LOCK = ModelLock(MappingProxyType({}))


def read_lock(path: Path) -> ModelLock:
    """Return what a lock file says; nothing where there is none.

    Raises:
        UsageError: the file is no lock of a version that is known.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != _VERSION:
            raise _no_lock(path, f"its version is {found['version']!r}")
        commits = {
            (str(model), str(reference)): str(commit)
            for model, references in found["models"].items()
            for reference, commit in references.items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return NO_LOCK
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_lock(path, _why(error)) from error
    for commit in commits.values():
        if not is_commit(commit):
            raise _no_lock(path, f"{commit[:50]!r} is no commit")
    return ModelLock(commits)


def write_lock(path: Path, lock: ModelLock) -> None:
    """Write a lock file as a whole, in sorted order.

    Raises:
        OutputError: the place cannot be written to.
    """
    models: dict[str, dict[str, str]] = {}
    for (model, reference), commit in sorted(lock.commits.items()):
        models.setdefault(model, {})[reference] = commit
    text = json.dumps({"version": _VERSION, "models": models}, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, encoding="utf-8", delete=False
        ) as stream:
            stream.write(text)
        Path(stream.name).chmod(0o644)
        Path(stream.name).replace(path)
    except OSError as error:
        raise OutputError(
            f"Cannot write the lock of models {path}: {error.strerror}.",
            cure="Name another place with --models-lock.",
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, ValueError):
        return "it is no JSON in UTF-8"
    return "it has not the form that 'models fetch' writes"


def _no_lock(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is no lock of models: {why}.",
        cure="Remove it, and let 'models fetch' write it anew.",
    )
