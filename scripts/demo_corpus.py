"""Write real input for the demo: the Qdrant ecosystem as it is installed here.

Six packages of this Python environment become the collection `qdrant_ecosystem`, one
subdirectory each: the README from the package's metadata and the Python sources and
stubs, mirrored. Nothing is imported and nothing is fetched.

Which files: the modules a user meets first, in the order of the table below; then the
rest, shallow paths first. Generated code, tests and the asynchronous twins of modules
are left out. A package's list ends before the file that would take it over 350,000
bytes. The same packages give the same corpus. --full takes every source file instead.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

COLLECTION = "qdrant_ecosystem"
RECORD = ".demo_corpus/files.json"  # hidden: no document
BYTES_PER_PACKAGE = 350_000
LEFT_OUT = (
    "*_pb2.py",
    "*_pb2.pyi",
    "*_pb2_grpc.py",
    "*/grpc/*",
    "grpc/*",
    "swigfaiss*.py",
    "_inspection_cache.py",
    "*/_inspection_cache.py",
    "async_*.py",
    "*/async_*.py",
    "*/deprecated*.py",
    "testing_utils.py",
    "*test*/*",
    "*dummy_*.py",
    "*convert_*.py",
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package, the distribution that brings it, and its modules in order of use."""

    name: str
    distribution: str
    first: tuple[str, ...] = ()


PACKAGES = (
    Package(
        "qdrant_client",
        "qdrant-client",
        ("qdrant_client.py", "hybrid/*.py", "local/qdrant_local.py", "uploader/*.py"),
    ),
    Package("qdrant_edge", "qdrant-edge-py", ("__init__.pyi",)),
    Package(
        "fastembed",
        "fastembed",
        ("text/text_embedding.py", "sparse/*.py", "text/*.py", "rerank/*/*.py"),
    ),
    Package(
        "sentence_transformers",
        "sentence-transformers",
        (
            "sentence_transformer/model.py",
            "cross_encoder/model.py",
            "util/similarity.py",
            "util/retrieval.py",
            "util/quantization.py",
            "sentence_transformer/modules/pooling.py",
        ),
    ),
    Package(
        "transformers",
        "transformers",
        (
            "models/bert/modeling_bert.py",
            "models/auto/auto_factory.py",
            "pipelines/feature_extraction.py",
            "pipelines/text_classification.py",
            "tokenization_python.py",
            "trainer_callback.py",
            "activations.py",
        ),
    ),
    Package("faiss", "faiss-cpu", ("__init__.py", "class_wrappers.py", "contrib/*.py")),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A file to be: its path in the collection and what it holds."""

    path: str
    content: bytes


def package_folder(name: str) -> Path | None:
    """Return where a package is installed, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0])


def readme(distribution: str) -> str:
    """Return the README in a distribution's metadata, or nothing."""
    try:
        metadata = importlib.metadata.metadata(distribution).json
    except importlib.metadata.PackageNotFoundError:
        return ""
    return str(metadata.get("description", "")).strip()


def in_order(paths: Iterable[str], first: tuple[str, ...]) -> list[str]:
    """Return paths by the first pattern they match, then by depth, then by name."""

    def key(path: str) -> tuple[int, int, str]:
        place = next((i for i, p in enumerate(first) if fnmatch(path, p)), len(first))
        return (place, path.count("/"), path)

    return sorted(paths, key=key)


def choose(sizes: dict[str, int], first: tuple[str, ...], limit: int) -> Iterator[str]:
    """Yield the paths that the rule takes, in its order, `limit` bytes at most."""
    wanted = (p for p in sizes if not any(fnmatch(p, skip) for skip in LEFT_OUT))
    for path in in_order(wanted, first):
        limit -= sizes[path]
        if limit < 0:
            return
        yield path


def documents(package: Package, folder: Path, *, full: bool) -> Iterator[Document]:
    """Yield the README and the chosen sources of one package."""
    text = readme(package.distribution)
    if text:
        yield Document(f"{package.name}/README.md", f"{text}\n".encode())
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*.py*")
        if path.suffix in {".py", ".pyi"} and path.stat().st_size
    }
    chosen = sizes if full else choose(sizes, package.first, BYTES_PER_PACKAGE)
    for path in sorted(chosen):
        yield Document(f"{package.name}/{path}", (folder / path).read_bytes())


def write(output: Path, found: Iterable[Document], versions: dict[str, str]) -> int:
    """Write the collection and what it was made of; return the number of files.

    Unchanged files are left untouched. Files that an earlier run wrote, by its record,
    and this one does not, are removed; others are nobody's business.
    """
    record = output / RECORD
    earlier = json.loads(record.read_text())["files"] if record.is_file() else []
    written = []
    for document in found:
        path = output / COLLECTION / document.path
        if not path.is_file() or path.read_bytes() != document.content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(document.content)
        written.append(document.path)
    for stale in sorted(set(earlier) - set(written)):
        (output / COLLECTION / stale).unlink(missing_ok=True)
    made = {"collection": COLLECTION, "versions": versions, "files": sorted(written)}
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(made, indent=2) + "\n")
    return len(written)


def main() -> int:
    """Parse the command line, write, and say what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--full", action="store_true", help="take every source file")
    arguments = parser.parse_args()
    found: list[Document] = []
    versions: dict[str, str] = {}
    for package in PACKAGES:
        folder = package_folder(package.name)
        if folder is None:
            print(f"{package.name} is not installed: left out.", file=sys.stderr)
            continue
        part = list(documents(package, folder, full=arguments.full))
        versions[package.name] = importlib.metadata.version(package.distribution)
        size = sum(len(document.content) for document in part)
        print(f"{package.name} {versions[package.name]}: {len(part)} files, {size:,} B")
        found += part
    if not found:
        print(
            "None of the packages is installed: nothing was written.", file=sys.stderr
        )
        return 1
    count = write(arguments.output_dir, found, versions)
    print(f"{count} files in {arguments.output_dir / COLLECTION}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
