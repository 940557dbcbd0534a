"""A bundle with its manifest, and what may be read of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from ..export.layout import BundleNames
from ..export.manifest import Manifest
from ..export.vectors import open_vectors
from ..records import Float32Array
from .report import Findings, blame_no_bundle


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """`intact` names the files whose sums hold; damaged text files are read too, to
    find the place; damaged binary files are not handed to the libraries that parse
    them.
    """

    path: Path
    manifest: Manifest
    names: BundleNames
    intact: frozenset[str]
    vectors: dict[str, Float32Array]  # by model key, memory-mapped

    def file(self, name: str) -> Path | None:
        """Return the path of a file that is there."""
        path = self.path / name
        return path if path.is_file() else None

    def suspect(self, reader: str, other: str) -> str:
        """Return which of two files that contradict each other is to be named.

        The one whose own sum does not hold; else `reader`, where the fault was seen.
        """
        return other if reader in self.intact and other not in self.intact else reader

    def usable(self, name: str) -> bool:
        """Whether a file may be trusted: its sum holds, or none is stated."""
        if not self.manifest.artifacts:
            return (self.path / name).is_file()
        return name in self.intact

    @property
    def sparse_keys(self) -> list[str]:
        """Keys of the sparse models that the manifest says ran."""
        return [run.sparse_model for run in self.manifest.sparse_run or ()]

    @property
    def listed(self) -> list[str]:
        """Paths that the manifest lists, or else those in the folder."""
        if self.manifest.artifacts:
            return [item.path for item in self.manifest.artifacts]
        return sorted(path.name for path in self.path.iterdir())


def open_bundle(
    path: Path, manifest: Manifest, intact: frozenset[str], findings: Findings
) -> OpenBundle:
    """Open the vectors of a bundle; one that cannot be opened is a finding.

    Raises:
        UsageError: a name in the manifest cannot be part of a file name.
    """
    names = BundleNames(manifest.collection)
    for run in manifest.dense_run or ():
        names.dense(run.model)
    for sparse_run in manifest.sparse_run or ():
        names.postings(sparse_run.sparse_model)
    bundle = OpenBundle(path, manifest, names, intact, {})
    for key in names.dense_keys(bundle.listed):
        name = names.dense(key)
        if bundle.file(name) is None:
            continue
        try:
            bundle.vectors[key] = open_vectors(path / name)
        except BundleError as error:
            blame_no_bundle(error)
            findings.add(name, "header or length", error.message)
    return bundle
