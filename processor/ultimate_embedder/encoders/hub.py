"""Files of published models: from the cache, or fetched from the hub, with retries.

`Hub` is what the rest asks for; `HuggingFaceHub` answers with the library's own cache
and downloads. What can pass by itself (a server's error, a broken connection) is tried
again with growing pauses; what cannot (no such model, no permission) is not.
"""

from __future__ import annotations

import importlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import ModelNotAvailable, OutputError
from ..models.lock import LOCK_NAME, MAIN

_Answer = TypeVar("_Answer")

PAUSES = (1.0, 2.0, 4.0)
"""Seconds before the second, third and last attempt."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT_SECONDS = 20.0
_BRING_ALONG = (
    "Check the connection and run again, or bring a cache along and set HF_HOME, or "
    "name a local folder. 'ultimate-embedder models check' tells what is missing."
)


def is_hub_id(name: str) -> bool:
    """Say whether a name has the form of a model on the hub, `org/name`."""
    whole = _HUB_ID.fullmatch(name) is not None
    return whole and "--" not in name and ".." not in name


class HubFailure(ModelNotAvailable):
    """The hub did not give what was asked; `transient`: it may the next time.

    `silence` is why it could not be asked at all, in words that stand alone.
    """

    def __init__(
        self,
        message: str,
        *,
        cure: str | None = None,
        transient: bool = False,
        silence: str | None = None,
    ) -> None:
        super().__init__(message, cure=cure)
        self.transient = transient
        self.silence = silence


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's files at one commit; sizes in bytes, None where the hub tells none."""

    commit: str
    sizes: Mapping[str, int | None]


class Hub(Protocol):
    """Where published models come from."""

    @property
    def lock_path(self) -> Path:
        """The lock that travels with the cache."""

    def cached(self, model: str, revision: str) -> Path | None:
        """Return the folder of a revision in the cache; open no connection."""

    def listing(self, model: str, revision: str) -> Listing:
        """Ask which files a revision has.

        Raises:
            HubFailure: it cannot be had.
        """

    def download(self, model: str, revision: str, names: Sequence[str]) -> Path:
        """Fetch files of a revision into the cache; return their folder.

        Raises:
            HubFailure: they cannot be had.
            OutputError: the cache cannot be written to.
        """

    def remember(self, model: str, reference: str, commit: str) -> None:
        """Let the cache find a commit under the reference that it was fetched by."""


class HuggingFaceHub:
    """The hub and the cache of the Hugging Face library, and no other place."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        cache_dir: Path | None = None,
        progress: bool = False,
    ) -> None:
        """Take the library's own places unless told; `progress` shows its bars."""
        self._endpoint = endpoint
        self._cache_dir = cache_dir
        self._progress = progress

    @property
    def cache_dir(self) -> Path:
        """Where models are kept: HF_HOME and HF_HUB_CACHE decide, in that library."""
        from huggingface_hub import constants

        return self._cache_dir or Path(constants.HF_HUB_CACHE)

    @property
    def lock_path(self) -> Path:
        """The lock that travels with the cache."""
        return self.cache_dir / LOCK_NAME

    def cached(self, model: str, revision: str) -> Path | None:
        """Return the folder of a revision in the cache; open no connection."""
        from huggingface_hub import try_to_load_from_cache

        with _translated(model, revision):
            found = try_to_load_from_cache(
                model, "config.json", cache_dir=self.cache_dir, revision=revision
            )
        return Path(found).parent if isinstance(found, str) else None

    def listing(self, model: str, revision: str) -> Listing:
        """Ask which files a revision has; see `Hub`."""
        from huggingface_hub import HfApi

        with _quiet(self._progress), _translated(model, revision):
            found = HfApi(endpoint=self._endpoint).model_info(
                model, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS
            )
        files = found.siblings or ()
        return Listing(str(found.sha), {one.rfilename: one.size for one in files})

    def download(self, model: str, revision: str, names: Sequence[str]) -> Path:
        """Fetch files of a revision into the cache; see `Hub`."""
        from huggingface_hub import snapshot_download

        with _quiet(self._progress), _translated(model, revision):
            return Path(
                snapshot_download(
                    model,
                    revision=revision,
                    cache_dir=self.cache_dir,
                    endpoint=self._endpoint,
                    allow_patterns=list(names),
                )
            )

    def remember(self, model: str, reference: str, commit: str) -> None:
        """Let the cache find a commit under a reference, as the library does."""
        from huggingface_hub.file_download import repo_folder_name

        name = repo_folder_name(repo_id=model, repo_type="model")
        place = self.cache_dir / name / "refs" / reference
        with _translated(model, reference):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(commit, encoding="utf-8")


def with_retries(
    ask: Callable[[], _Answer],
    *,
    pauses: Sequence[float] = PAUSES,
    sleep: Callable[[float], None] | None = None,
) -> _Answer:
    """Return what `ask` returns, trying again after a pause where that may help.

    Raises:
        HubFailure: it will not help, or did not.
    """
    for pause in pauses:
        try:
            return ask()
        except HubFailure as failure:
            if not failure.transient:
                raise
        (sleep or time.sleep)(pause)
    return ask()


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Keep the library's bars and remarks from breaking a run's display up.

    What it warns of, each attempt that failed, comes to an error here in the end.
    """
    utils: Any = importlib.import_module("huggingface_hub.utils")
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    hide = not progress and not utils.are_progress_bars_disabled()
    if hide:
        utils.disable_progress_bars()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if hide:
            utils.enable_progress_bars()


@contextmanager
def _translated(model: str, revision: str) -> Iterator[None]:
    """Give the library's errors the one name that the rest knows, keeping the cause."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = "" if revision == MAIN else f" at {revision}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubFailure(
            f"{model} cannot be fetched: HF_HUB_OFFLINE is set.",
            cure="Unset it, or fetch the model where there is a connection.",
            silence="HF_HUB_OFFLINE is set",
        ) from error
    except GatedRepoError as error:
        raise HubFailure(
            f"{model} is gated: its owner asks for terms to be accepted first.",
            cure="Accept them on the model's page, then set HF_TOKEN to your token.",
        ) from error
    except RevisionNotFoundError as error:
        raise HubFailure(
            f"The hub has no revision {revision} of {model}.",
            cure="Name another: MODEL@REVISION.",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise HubFailure(
            f"The hub has no public model {model}.",
            cure="Check its spelling; for a private one set HF_TOKEN to your token.",
        ) from error
    except HfHubHTTPError as error:
        raise _of_status(error, model, at) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(error.__cause__ or error, model, at) from error
    except connection_errors() as error:
        raise _unreachable(error, model, at) from error
    except OSError as error:
        if error.errno is None:
            raise _unreachable(error, model, at) from error
        raise OutputError(
            f"{model} cannot be kept in the cache: {error.strerror}.",
            cure="Make room, or set HF_HOME to a place that has some.",
        ) from error


@cache
def connection_errors() -> tuple[type[Exception], ...]:
    """Return what a broken connection raises.

    The library speaks through httpx, before its version 1 through requests.
    """
    found: list[type[Exception]] = [ConnectionError, TimeoutError]
    for module, name in (("httpx", "TransportError"), ("requests", "RequestException")):
        try:
            found.append(getattr(importlib.import_module(module), name))
        except ImportError:
            continue
    return tuple(found)


def _of_status(error: Exception, model: str, at: str) -> HubFailure:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return HubFailure(
            f"The hub does not give {model}{at} to this user (status {status}).",
            cure="Set HF_TOKEN to a token that may read it.",
        )
    return HubFailure(
        f"The hub answered with status {status} when asked for {model}{at}.",
        cure=_BRING_ALONG,
        transient=status in _TRY_AGAIN,
        silence=f"it answered with status {status}",
    )


def _unreachable(error: BaseException, model: str, at: str) -> HubFailure:
    return HubFailure(
        f"{model}{at} cannot be fetched: the hub is not reached "
        f"({type(error).__name__}).",
        cure=_BRING_ALONG,
        transient=isinstance(error, connection_errors()),
        silence="it is not reached",
    )
