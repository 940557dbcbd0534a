"""What the files of a bundle are called: said here, and nowhere else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

MANIFEST = "processing_summary.json"
SUMS = "SHA256SUMS"

_DENSE = "_embeddings.npy"
_POSTINGS = "_postings"


@dataclass(frozen=True, slots=True)
class BundleNames:
    """File names of one collection's bundle, relative to its folder.

    Raises:
        UsageError: the collection, or a model key handed to a method, cannot be part
            of a file name.
    """

    collection: str

    def __post_init__(self) -> None:
        _check("collection", self.collection)

    @property
    def ids(self) -> str:
        """Row, point id, chunk id and text hash."""
        return f"{self.collection}_ids.jsonl"

    @property
    def points(self) -> str:
        """One point a line."""
        return f"{self.collection}_qdrant.jsonl"

    @property
    def sparse(self) -> str:
        """Sparse vectors by chunk."""
        return f"{self.collection}_sparse.jsonl"

    @property
    def rerank(self) -> str:
        """Reranked candidates by query."""
        return f"{self.collection}_rerank.jsonl"

    def dense(self, key: str) -> str:
        """Return the name of a dense model's vectors."""
        return f"{self.collection}_{_check('model', key)}{_DENSE}"

    def index(self, key: str) -> str:
        """Return the name of a dense model's FAISS index."""
        return f"{self.collection}_{_check('model', key)}_index.faiss"

    def postings(self, key: str) -> str:
        """Return the name of the folder of a sparse model's inverted lists."""
        return f"{self.collection}_{_check('model', key)}{_POSTINGS}"

    def dense_keys(self, paths: Iterable[str]) -> list[str]:
        """Return the keys of the dense models whose vectors are among `paths`."""
        return [
            path.removeprefix(f"{self.collection}_").removesuffix(_DENSE)
            for path in paths
            if path.startswith(f"{self.collection}_") and path.endswith(_DENSE)
        ]


def repair_cure(bundle: Path, options: str = "") -> str:
    """Return what to do about a damaged file that other files may give again."""
    command = f"ultimate-embedder repair {shlex.quote(str(bundle))}{options}"
    return f"Run '{command}'."


def _check(kind: str, name: str) -> str:
    encodable = name.encode("utf-8", "replace").decode() == name
    if not name or name.startswith(".") or set(name) & {"/", "\0"} or not encodable:
        raise UsageError(
            f"The {kind} name {name!r} cannot be part of a file name.",
            cure="Use letters, digits, '-', '_' and inner dots.",
        )
    return name
