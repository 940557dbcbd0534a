"""Which files hold a model's weights, and which of them a folder lacks.

Safetensors, whole or in parts that an index names, or an ONNX graph with the files that
it keeps tensors in. Pickles are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import ModelError, ModelNotAvailable
from .onnx_files import tensor_files

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ONNX_GRAPHS = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PART = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)


def lacking_weights(folder: Path, backend: str = "pytorch") -> tuple[str, ...]:
    """Return the names of weight files that a folder should have and has not.

    Raises:
        ModelError: an index or a graph names files that lie elsewhere.
    """
    if backend == "onnx":
        graph = graph_file(folder)
        if graph is None:
            return ONNX_GRAPHS[:1]
        place = graph.parent.relative_to(folder)
        wanted: Iterable[str] = ((place / n).as_posix() for n in tensor_files(graph))
    elif (folder / WEIGHTS).is_file():
        return ()
    else:
        wanted = indexed_parts(folder) or (WEIGHTS,)
    return tuple(name for name in wanted if not (folder / name).is_file())


def indexed_parts(folder: Path) -> tuple[str, ...]:
    """Return the files that the index names, none where there is no usable index.

    Raises:
        ModelError: it names something else than safetensors beside it.
    """
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        named = sorted({str(name) for name in content["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    for name in named:
        if not _PART.fullmatch(name):
            raise ModelError(
                f"{folder / INDEX} names '{name[:80]}', which is no safetensors file "
                "beside it.",
                cure="Choose another model: one that is published whole has no such "
                "name.",
            )
    return tuple(named)


def graph_file(folder: Path) -> Path | None:
    """Return the ONNX graph in a folder, None where there is none."""
    return next((folder / n for n in ONNX_GRAPHS if (folder / n).is_file()), None)


def pickles_among(names: Iterable[str]) -> list[str]:
    """Return the names of weights in a form that is not read."""
    return sorted(n for n in names if "/" not in n and n.endswith(_PICKLES))


def require_weights(folder: Path, model: str, backend: str = "pytorch") -> None:
    """Refuse a folder of one's own that lacks weights.

    Raises:
        ModelNotAvailable: naming the folder and what it lacks.
        ModelError: an index or a graph names files that lie elsewhere.
    """
    lacking = lacking_weights(folder, backend)
    if not lacking:
        return
    if backend == "pytorch" and lacking == (WEIGHTS,):
        raise no_safetensors(model, [path.name for path in folder.iterdir()])
    raise ModelNotAvailable(
        f"{folder} lacks {shortened(lacking)}.",
        cure="Copy the whole folder of the model again.",
    )


def no_safetensors(model: str, names: Iterable[str]) -> ModelNotAvailable:
    """Return the error for a model whose files hold no weights that are read."""
    pickles = pickles_among(names)
    has = f": its weights are pickles ({shortened(pickles)})" if pickles else ""
    if Path(model).is_dir():
        cure = "Copy the whole folder of the model again."
        if pickles:
            cure = "Convert them once: load the model elsewhere, then save_pretrained."
    else:
        cure = (
            f"Name a revision that has them, {model}@refs/pr/N where N is a request "
            "to add them, or convert them once and name the folder."
        )
    return ModelNotAvailable(
        f"{model} offers no safetensors weights{has}, which are not read."
        if pickles
        else f"{model} offers no safetensors weights.",
        cure=cure,
    )


def shortened(names: Iterable[str]) -> str:
    """Return up to three names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
