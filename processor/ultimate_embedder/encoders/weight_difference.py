"""What a trained model's weights differ by from those of a known base.

A folder with two files:

    config.json              the base and the SHA-256 of its weights, window, blend, and
                             how the difference came about: `DifferenceCard`
    difference.safetensors   for a parameter P either the trained tensor under `P`, or
                             `P.lora_A` [rank, in] and `P.lora_B` [out, rank]: P is then
                             base + B @ A (Hu et al., LoRA, 2021), scaling folded in

A parameter that is in neither form is that of the base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..errors import ModelError, ModelMismatch, ModelNotAvailable, UsageError
from ..records import Float32Array
from ..retrieval.blend import BlendConfig

State = Mapping[str, Float32Array]
"""Parameters by name."""

CARD = "config.json"
WEIGHTS = "difference.safetensors"
MAX_BYTES = 12_000_000
"""The most a difference may weigh, so that it can live in a repository."""

SHIPPED = Path(__file__).resolve().parent.parent / "weights"
_DOWN, _UP = ".lora_A", ".lora_B"
_DTYPES = (np.float16, np.float32)
_NEGLIGIBLE = 1e-6
_CURE = "Restore the folder, or train the difference again."


class DifferenceCard(BaseModel):
    """What a difference says about itself.

    `rank` is the largest that was kept, None where no matrix was shortened. `blend` was
    chosen over so many `candidates`. `training` holds whatever makes it repeatable:
    seeds, hashes of the data, figures.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: Literal["weight-difference"] = "weight-difference"
    base_model: str
    base_package: str | None = None
    base_sha256: str = Field(pattern=r"[0-9a-f]{64}")
    rank: int | None = Field(default=None, ge=1)
    max_tokens: int = Field(ge=1)
    candidates: int | None = Field(default=None, ge=1)
    blend: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)

    @field_validator("blend")
    @classmethod
    def _parses(cls, text: str | None) -> str | None:
        try:
            return None if text is None else str(BlendConfig.parse(text))
        except UsageError as error:
            raise ValueError(error.message) from error


@dataclass(frozen=True, slots=True)
class Written:
    """What was written. `error` is the norm of what was lost over that of the whole."""

    bytes: int
    parameters: int
    error: float


def difference_folder(name: str) -> Path:
    """Return the folder of a difference: one that is shipped, or the path given."""
    return SHIPPED / name if Path(name).name == name else Path(name)


def difference_sha256(name: str) -> str:
    """Return the SHA-256 of a difference's tensors, in hex."""
    with (difference_folder(name) / WEIGHTS).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_card(folder: Path) -> DifferenceCard:
    """Return what a difference says about itself.

    Raises:
        ModelNotAvailable: there is no difference in the folder.
        ModelError: its card cannot be read.
    """
    path = folder / CARD
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise ModelNotAvailable(
            f"The weights of the reranker {folder.name} are not on this machine.",
            cure="Install a version that brings them, name another reranker with "
            "--rerank-model, or pass --disable-rerank.",
        )
    try:
        return DifferenceCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"{path} is no card of a weight difference: {place} {first['msg']}.",
            cure=_CURE,
        ) from error


def apply_difference(
    base: State, base_sha256: str, folder: Path
) -> dict[str, Float32Array]:
    """Return all parameters, those that differ replaced: float32, base's shapes.

    Raises:
        ModelNotAvailable: there is no difference in the folder.
        ModelMismatch: it belongs to another base, or names parameters the base has not.
        ModelError: its files are damaged.
    """
    card = read_card(folder)
    if card.base_sha256 != base_sha256:
        raise ModelMismatch(
            f"The difference {folder.name} belongs to weights with SHA-256 "
            f"{card.base_sha256}, not {base_sha256}.",
            cure=f"Install the weights it was trained from: {card.base_model}.",
        )
    found = dict(base)
    for name, change in _parts(_tensors(folder), folder.name).items():
        if name not in base:
            raise ModelMismatch(
                f"The difference {folder.name} changes {name}, which the base has not.",
                cure=_CURE,
            )
        found[name] = change.applied(name, base[name])
    return found


def write_difference(
    folder: Path,
    base: State,
    trained: State,
    card: DifferenceCard,
    *,
    max_bytes: int = MAX_BYTES,
) -> Written:
    """Write what `trained` differs by; matrices are shortened to the card's rank.

    A matrix whose difference has a smaller rank loses nothing by it but float16's
    digits (truncated SVD: the nearest of its rank, Eckart and Young, 1936).

    Raises:
        ModelError: names or shapes differ, a value is not finite, or the difference is
            larger than `max_bytes`; nothing is written then.
    """
    _check_states(base, trained)
    tensors: dict[str, npt.NDArray[Any]] = {}
    lost = whole = 0.0
    for name in sorted(trained):
        delta = trained[name].astype(np.float32) - base[name]
        if not delta.any():
            continue
        change = _shortened(trained[name], delta, card.rank)
        tensors |= change.tensors(name)
        lost += float(np.square(change.applied(name, base[name]) - trained[name]).sum())
        whole += float(np.square(delta).sum())
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > max_bytes:
        raise ModelError(
            f"The difference has {size} bytes; {max_bytes} are allowed.",
            cure="Choose a smaller rank, or train fewer layers.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    document = json.dumps(card.model_dump(mode="json"), indent=2)
    (folder / CARD).write_text(document + "\n", encoding="utf-8")
    return Written(
        bytes=(folder / WEIGHTS).stat().st_size,
        parameters=len({name.removesuffix(_UP) for name in tensors} & set(base)),
        error=float(np.sqrt(lost / whole)) if whole else 0.0,
    )


@dataclass(frozen=True, slots=True)
class _Change:
    """One parameter's new value, or the factors of what is added to it."""

    whole: npt.NDArray[Any] | None = None
    down: npt.NDArray[Any] | None = None
    up: npt.NDArray[Any] | None = None

    def tensors(self, name: str) -> dict[str, npt.NDArray[Any]]:
        named = {name: self.whole, name + _DOWN: self.down, name + _UP: self.up}
        # safetensors writes memory as it lies, whatever the strides say.
        return {
            key: np.ascontiguousarray(value)
            for key, value in named.items()
            if value is not None
        }

    def applied(self, name: str, base: Float32Array) -> Float32Array:
        """Return the parameter's value.

        Raises:
            ModelMismatch: the shapes do not fit the base's.
        """
        if self.whole is not None:
            value: Float32Array = self.whole.astype(np.float32)
        elif self.down is None or self.up is None:
            raise ModelError(f"{name} has one factor of two.", cure=_CURE)
        elif self.down.ndim != 2 or self.up.ndim != 2 or base.ndim != 2:
            raise ModelMismatch(f"{name} has factors that are no matrices.", cure=_CURE)
        elif (len(self.up), self.down.shape[1]) != base.shape or len(
            self.down
        ) != self.up.shape[1]:
            raise ModelMismatch(
                f"{name} has factors of {self.up.shape} and {self.down.shape}; the "
                f"base's shape is {base.shape}.",
                cure=_CURE,
            )
        else:
            value = base + self.up.astype(np.float32) @ self.down.astype(np.float32)
        if value.shape != base.shape:
            raise ModelMismatch(
                f"{name} has the shape {value.shape}; the base's is {base.shape}.",
                cure=_CURE,
            )
        return value


def _tensors(folder: Path) -> dict[str, npt.NDArray[Any]]:
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors.", cure=_CURE
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ModelError(f"{name} in {path} is {tensor.dtype}.", cure=_CURE)
        if not np.isfinite(tensor).all():
            raise ModelError(
                f"{name} in {path} holds values that are not finite.", cure=_CURE
            )
    return tensors


def _parts(tensors: Mapping[str, npt.NDArray[Any]], folder: str) -> dict[str, _Change]:
    names = {name.removesuffix(_DOWN).removesuffix(_UP) for name in tensors}
    both = {name for name in names if name in tensors and name + _UP in tensors}
    if both:
        raise ModelError(
            f"The difference {folder} holds {min(both)} whole and as factors.",
            cure=_CURE,
        )
    return {
        name: _Change(
            tensors.get(name), tensors.get(name + _DOWN), tensors.get(name + _UP)
        )
        for name in sorted(names)
    }


def _shortened(trained: Float32Array, delta: Float32Array, rank: int | None) -> _Change:
    """Return factors where they are smaller than the matrix, else the whole of it."""
    if delta.ndim != 2:
        return _Change(whole=trained.astype(np.float32))
    if rank is None or rank * sum(delta.shape) >= delta.size:
        return _Change(whole=trained.astype(np.float16))
    up, down = _factors(delta, rank)
    return _Change(down=down.astype(np.float16), up=up.astype(np.float16))


def _factors(
    matrix: Float32Array, rank: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return [rows, rank] and [rank, columns] of the nearest matrix of that rank.

    By the eigenvectors of the smaller square, far quicker than a full decomposition.
    """
    wide = matrix.astype(np.float64)
    if len(wide) > wide.shape[1]:
        up, down = _factors(matrix.T, rank)
        return down.T, up.T
    _, vectors = np.linalg.eigh(wide @ wide.T)
    left = vectors[:, ::-1][:, :rank]
    right = left.T @ wide
    # Both factors get the root of a singular value, so that float16 holds them.
    roots = np.sqrt(np.linalg.norm(right, axis=1))
    kept = roots > roots.max(initial=0.0) * _NEGLIGIBLE
    return left[:, kept] * roots[kept], right[kept] / roots[kept, None]


def _check_states(base: State, trained: State) -> None:
    if set(base) != set(trained):
        odd = min(set(base) ^ set(trained))
        raise ModelError(f"Base and trained weights differ in having {odd}.")
    for name, tensor in trained.items():
        if tensor.shape != base[name].shape:
            raise ModelError(
                f"{name} has the shape {tensor.shape}; the base's is "
                f"{base[name].shape}."
            )
        if not np.isfinite(tensor).all():
            raise ModelError(
                f"{name} holds values that are not finite.",
                cure="Train again with a smaller step.",
            )
