"""The files of a bundle under repair: which are right, and where they now stand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..config import JsonlLayout
from ..errors import BundleError, UsageError
from ..export.checksums import file_sha256
from ..export.layout import BundleNames
from ..export.manifest import Manifest
from ..export.manifest_sections import Artifact

NOT_THE_SUM = "what {source} gives does not have the recorded sum"
_COMPARED_BYTES = 2**20


@dataclass(slots=True)
class Bench:
    """`good` maps a listed file to one that has the recorded sum.

    `scratch` takes what is being made; `tried` says why an attempt at a file failed;
    `searched` names those that no single flipped bit sets right.
    """

    bundle: Path
    manifest: Manifest
    names: BundleNames
    scratch: Path
    listed: dict[str, Artifact]
    good: dict[str, Path] = field(default_factory=dict)
    rebuilt: dict[str, str] = field(default_factory=dict)
    tried: dict[str, str] = field(default_factory=dict)
    searched: set[str] = field(default_factory=set)
    _made: int = 0

    @property
    def missing(self) -> list[str]:
        """Listed files that are not right yet."""
        return [name for name in self.listed if name not in self.good]

    @property
    def dense_keys(self) -> list[str]:
        """Keys of the dense models, primary first."""
        return [run.model for run in self.manifest.dense_run or ()]

    @property
    def sparse_keys(self) -> list[str]:
        """Keys of the sparse models."""
        return [run.sparse_model for run in self.manifest.sparse_run or ()]

    @property
    def layout(self) -> JsonlLayout:
        """The layout of the points."""
        export = self.manifest.export
        simple = export is not None and export.jsonl_layout == "simple"
        return "simple" if simple else "qdrant"

    @property
    def simple(self) -> bool:
        """Whether points hold the primary model's vectors alone."""
        return self.layout == "simple"

    def needs(self, name: str) -> bool:
        """Whether a file is listed and not right yet."""
        return name in self.listed and name not in self.good

    def new_path(self) -> Path:
        """Return a free path in the scratch folder."""
        self._made += 1
        return self.scratch / f"{self._made:06}"

    def damaged(self, name: str) -> Path | None:
        """Return the damaged file that stands in the bundle, if one does."""
        path = self.bundle / name
        return path if path.is_file() and not path.is_symlink() else None

    def offer(self, name: str, made: Path, source: str) -> bool:
        """Take a file if it has the recorded sum; say so otherwise."""
        item = self.listed[name]
        right = made.stat().st_size == item.bytes and file_sha256(made) == item.sha256
        if right:
            self.good[name] = made
            self.rebuilt[name] = source
        else:
            made.unlink()
            self.tried[name] = NOT_THE_SUM.format(source=source)
        return right

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Note why a source cannot give a file, and go on."""
        try:
            yield
        except (BundleError, UsageError) as error:
            self.tried[name] = error.message


def open_bench(bundle: Path, manifest: Manifest, scratch: Path) -> Bench:
    """Sum every listed file; those that hold are the truth.

    Raises:
        UsageError: a name in the manifest cannot be part of a file name.
        BundleError: the manifest lists a path outside the bundle.
    """
    listed = {item.path: item for item in manifest.artifacts}
    names = BundleNames(manifest.collection)
    bench = Bench(bundle, manifest, names, scratch, listed)
    for name, item in listed.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise BundleError(f"The manifest lists {name!r}, outside the bundle.")
        if _holds(bundle, name, item):
            bench.good[name] = bundle / name
    return bench


def _holds(bundle: Path, name: str, item: Artifact) -> bool:
    path = bundle / name
    inner = PurePosixPath(name)
    if any((bundle / part).is_symlink() for part in (inner, *inner.parents[:-1])):
        return False
    try:
        right_size = path.is_file() and path.stat().st_size == item.bytes
        return right_size and file_sha256(path) == item.sha256
    except OSError:  # unreadable: as good as missing
        return False


def describe_damage(damaged: Path | None, right: Path) -> str:
    """Return what was wrong with a file, from the right one."""
    if damaged is None:
        return "missing"
    at = 0
    try:
        with damaged.open("rb") as one, right.open("rb") as other:
            while True:
                left, want = one.read(_COMPARED_BYTES), other.read(_COMPARED_BYTES)
                if left != want:
                    break
                at += len(left)
                if not left:
                    return "differed while it was read"
    except OSError as error:
        return f"could not be read ({error.strerror or error})"
    shared = min(len(left), len(want))
    first = next((i for i in range(shared) if left[i] != want[i]), shared)
    if first < shared:
        return f"differed from byte {at + first}"
    return f"{'broke off' if len(left) < len(want) else 'went on'} at byte {at + first}"
