"""What runs keep beside the bundles in an output folder, and what of it is still used.

`.work` holds, for each collection, texts, token ids, vectors and the ledger, so that a
later run computes what changed and no more. Nothing in a bundle refers to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, UsageError
from ..export.manifest import Manifest
from ..export.output_errors import output_error
from ..models.catalogue import SPARSE_MODELS
from ..stages.earlier_pass import PassState
from .output_lock import only_run_in

WORK_FOLDER = ".work"
_FINGERPRINT_DIGITS = 16  # of a tokenizer, in the name of a folder of token ids
_DENSE, _TOKENS, _SPARSE = "dense-", "tokens-", "sparse"


@dataclass(frozen=True, slots=True)
class KeptPart:
    """A folder that a run left for later runs; `used` by the bundle beside it."""

    collection: str
    path: Path
    bytes: int
    used: bool


def kept_parts(
    output_dir: Path, collections: Collection[str] = ()
) -> tuple[KeptPart, ...]:
    """Return what is kept for some collections, or for all, in the order of names.

    A part is used when the collection's bundle holds the model that it belongs to.
    Without a bundle an unfinished run may need it: then everything counts as used.

    Raises:
        UsageError: nothing is kept for one of the names.
    """
    root = output_dir / WORK_FOLDER
    found = sorted(path.name for path in root.glob("*") if path.is_dir())
    unknown = sorted(set(collections) - set(found))
    if unknown:
        raise UsageError(
            f"Nothing is kept for {', '.join(unknown)} in {root}.",
            cure=f"Found: {', '.join(found) or 'nothing'}.",
        )
    return tuple(
        part
        for name in found
        if not collections or name in collections
        for part in _parts(output_dir, name)
    )


def remove_kept(
    output_dir: Path, collections: Collection[str] = (), *, everything: bool = False
) -> tuple[KeptPart, ...]:
    """Remove what no bundle uses, or `everything` kept; return what was removed.

    Bundles stay as they are. What a later run misses it computes anew.

    Raises:
        UsageError: nothing is kept for one of the names.
        RunStopped: a run works in the folder.
        OutputError: something cannot be removed.
    """
    root = output_dir / WORK_FOLDER
    if not root.is_dir():
        return ()
    with only_run_in(root):
        removed = tuple(
            part
            for part in kept_parts(output_dir, collections)
            if everything or not part.used
        )
        try:
            for part in removed:
                shutil.rmtree(part.path)
            for name in {part.collection for part in removed} if everything else ():
                shutil.rmtree(root / name)  # the ledger, which stood for these
        except OSError as error:
            raise output_error(error, root) from error
    return removed


def _parts(output_dir: Path, collection: str) -> Iterator[KeptPart]:
    work = output_dir / WORK_FOLDER / collection
    models = _models_of(output_dir / collection)
    tokenizers = {
        _tokenizer(path)
        for path in work.glob(f"{_DENSE}*")
        if models is None or path.name.removeprefix(_DENSE) in models
    }
    folders = [path for path in work.iterdir() if path.name != _SPARSE]
    for path in sorted([*folders, *(work / _SPARSE).glob("*")]):
        if path.is_dir():
            used = models is None or _is_used(path, models, tokenizers)
            yield KeptPart(collection, path, _size(path), used)


def _is_used(path: Path, models: set[str], tokenizers: set[str]) -> bool:
    if path.parent.name == _SPARSE:
        return path.name in models
    if path.name.startswith(_DENSE):
        return path.name.removeprefix(_DENSE) in models
    if path.name.startswith(_TOKENS):
        digits = path.name.removeprefix(_TOKENS)[:_FINGERPRINT_DIGITS]
        return digits in tokenizers
    return True


def _models_of(bundle: Path) -> set[str] | None:
    """Return the models of a bundle, None where there is none to go by."""
    try:
        manifest = Manifest.read(bundle)
    except BundleError:
        return None
    sparse = {run.sparse_model for run in manifest.sparse_run or ()}
    dense = {run.model for run in manifest.dense_run or ()}
    attention = {SPARSE_MODELS[key].dense_key for key in sparse & SPARSE_MODELS.keys()}
    return dense | sparse | {key for key in attention if key}


def _tokenizer(folder: Path) -> str:
    """Return the first digits of the tokenizer that a pass was made with."""
    facts = PassState.read(folder).facts.get("dense", {})
    return str(facts.get("tokenizer", ""))[:_FINGERPRINT_DIGITS]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
