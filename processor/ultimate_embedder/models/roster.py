"""The models of a run, from what was typed: chosen, trusted or not, and pinned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..config import ModelConfig, RerankingConfig, SparseModelConfig
from ..errors import UnknownModel, UsageError
from .lock import NO_LOCK, read_lock

Model = TypeVar("Model", ModelConfig, SparseModelConfig, RerankingConfig)


Chooser = Callable[..., Model]
"""One of `choose_dense`, `choose_sparse`, `choose_rerank`."""


class Roster:
    """Chooses models under the settings that bear on all of them.

    `trusted` are names of models whose own code may run, `lock` a file with commits
    that stands above the one in the cache of models.
    """

    def __init__(
        self,
        *,
        offline: bool,
        trusted: tuple[str, ...] = (),
        lock: Path | None = None,
    ) -> None:
        """Read the lock, if one is named.

        Raises:
            UsageError: it is not there, or no lock.
        """
        if lock is not None and not lock.is_file():
            raise UsageError(
                f"There is no lock of models {lock}.",
                cure="Write it with 'models fetch --models-lock', or leave it out.",
            )
        self._offline = offline
        self._trusted = trusted
        self._used: set[str] = set()
        self._lock = NO_LOCK if lock is None else read_lock(lock)

    def choose(
        self, chooser: Chooser[Model], names: tuple[str, ...], source: str
    ) -> tuple[Model, ...]:
        """Return the models of one setting, which `source` gave.

        Raises:
            UnknownModel: naming the source.
            ModelError: a model's own files cannot be had, or describe none.
        """
        try:
            return tuple(self._one(chooser, name) for name in names)
        except UnknownModel as error:
            raise UnknownModel(f"{source}: {error.message}", cure=error.cure) from None

    def require_trust_used(self, source: str) -> None:
        """Refuse trust in what the run does not load.

        Raises:
            UsageError: naming it.
        """
        idle = [name for name in self._trusted if name not in self._used]
        if idle:
            raise UsageError(
                f"{source} names {', '.join(idle)}, which this run does not load.",
                cure="Name models as in --ensemble-models, --sparse-models or "
                "--rerank-model.",
            )

    def _one(self, chooser: Chooser[Model], typed: str) -> Model:
        name = typed.partition("@")[0]
        trusted = name in self._trusted
        self._used.add(name)
        found = chooser(typed, offline=self._offline, trusted=trusted)
        commit = self._lock.pinned(found.hf_model_id, found.revision)
        return replace(found, revision=commit) if commit else found
