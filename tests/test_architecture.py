"""What may import what, proved over the source by `ast`."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "processor" / "ultimate_embedder"
NAME = "processor.ultimate_embedder"

FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "errors",
        "addresses config records planning memory_cost memory_plan memory_room "
        "encoders.protocols "
        "telemetry.events retrieval.ranking retrieval.blend retrieval.fusion",
        "models.catalogue models.shapes retrieval",
        "setting_table models.choice models.facts models.lock models.roster "
        "encoders.hub encoders.sources encoders.own_code encoders.weight_files "
        "encoders.content_sums "
        "encoders.onnx_files setting_layers settings ledger intake.chunks "
        "intake.chunk_store intake.queries disk_space run.output_lock device_lock "
        "gpu_lease",
        "encoders models workers hardware libraries devices intake",
        "chunking stages export search delivery telemetry verify report",
        "batch_runner run repair testing",
        "evaluation adaptation serving",
        "facade cli __init__",
    )
)
"""From the ground up; a module imports from its own floor or from below. A name stands
for the module and all beneath it, unless a longer name is listed."""

ROOMS = (
    "chunking",
    "stages",
    "export",
    "search",
    "verify",
    "delivery",
    "telemetry",
    "report",
)
"""Packages that do not know one another."""

SHARED = (
    "telemetry.events",
    "export.folders",
    "export.layout",
    "export.manifest",
    "export.manifest_sections",
    "export.vectors",
    "export.faiss_index",
    "export.checksums",
    "export.strict_json",
    "export.jsonl",
    "delivery.hybrid_query",
    "delivery.layout",
    "delivery.opening",
    "delivery.presets",
    "delivery.store",
)
"""What any room may use although it lies in another: the words for what happens, and
the format of a bundle's files. How a bundle comes about is `export`'s own business. And
how a collection in Qdrant is opened and asked: search does that as well."""

DOORS: dict[str, tuple[str, ...]] = {
    "torch": ("encoders", "adaptation.low_rank", "adaptation.training"),
    "transformers": ("encoders",),
    "huggingface_hub": ("encoders.hub",),
    "sentence_transformers": ("encoders",),
    "onnxruntime": ("encoders.dense_onnx",),
    "faiss": ("export.faiss_index",),
    "qdrant_client": ("delivery",),
    "qdrant_edge": ("delivery",),
    "sqlite3": ("ledger",),
    "pynvml": ("encoders.device_probe",),
    "prometheus_client": ("telemetry.prometheus", "serving.metrics"),
    "fastapi": ("serving.app",),
    "starlette": ("serving",),
    "uvicorn": ("cli.serve",),
    "opentelemetry.sdk": (
        "telemetry.otel",
        "telemetry.otlp_file",
        "telemetry.otlp_network",
        "telemetry.span_delivery",
    ),
}
"""A library and the modules through which it enters."""


@cache
def sources() -> dict[str, ast.Module]:
    """Return the syntax trees by module name; the package's own is `__init__`."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def is_package(module: str) -> bool:
    """Return whether a module is the `__init__.py` of a folder."""
    return (
        module == "__init__"
        or (PACKAGE / Path(*module.split(".")) / "__init__.py").is_file()
    )


def absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the full name that `from ... import` refers to."""
    if not node.level:
        return node.module or ""
    inner = () if module == "__init__" else module.split(".")
    parts = [*NAME.split("."), *inner]
    up = node.level - 1 if is_package(module) else node.level
    return ".".join([*parts[: len(parts) - up], *(node.module or "").split(".")]).strip(
        "."
    )


def imported(module: str) -> Iterator[str]:
    """Yield full names a module imports, wherever in the file they stand."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def inner_imports(module: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for name in imported(module):
        if name == NAME or not name.startswith(NAME + "."):
            continue
        inner = name.removeprefix(NAME + ".")
        if inner not in sources():  # a name in a module
            inner = inner.rpartition(".")[0] or "__init__"
        found.add(inner)
    return found - {module}


def within(module: str, prefix: str) -> bool:
    """Return whether a module is `prefix` or lies beneath it."""
    return module == prefix or module.startswith(prefix + ".")


def floor(module: str) -> int:
    """Return the number of a module's floor, by the longest name that fits."""
    fits = [
        (len(name), number)
        for number, names in enumerate(FLOORS)
        for name in names
        if within(module, name)
    ]
    assert fits, f"{module} stands on no floor: place it in FLOORS"
    return max(fits)[1]


def room(module: str) -> str | None:
    """Return the room a module lies in."""
    return next((name for name in ROOMS if within(module, name)), None)


MODULES = sorted(sources())


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    above = {name for name in inner_imports(module) if floor(name) > floor(module)}
    assert not above, f"{module} imports from above: {sorted(above)}"


@pytest.mark.parametrize("module", [name for name in MODULES if room(name)])
def test_rooms_do_not_know_one_another(module: str) -> None:
    strangers = {
        name
        for name in inner_imports(module)
        if room(name) not in (None, room(module)) and name not in SHARED
    }
    assert not strangers, f"{module} imports {sorted(strangers)}"


def test_the_picture_shows_every_room() -> None:
    picture = (ROOT / "docs" / "floors.svg").read_text(encoding="utf-8")
    drawn = re.findall(r'class="stage".*<text[^>]*>(\w+)</text>', picture)
    assert sorted(drawn) == sorted(ROOMS)


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name.split(".")[0] not in ("__init__", "cli")],
)
def test_only_commands_and_the_package_itself_import_the_facade(module: str) -> None:
    assert "facade" not in inner_imports(module)


@pytest.mark.parametrize("module", MODULES)
def test_each_library_enters_by_its_door(module: str) -> None:
    for name in imported(module):
        for library, doors in DOORS.items():
            if within(name, library):
                assert any(within(module, door) for door in doors), (
                    f"{module} imports {name}"
                )


@pytest.mark.parametrize("module", [name for name in MODULES if name != "settings"])
def test_only_settings_reads_the_environment(module: str) -> None:
    readers = {"environ", "environb", "getenv"}
    for node in ast.walk(sources()[module]):
        read = isinstance(node, ast.Attribute) and node.attr in readers
        taken = isinstance(node, ast.alias) and node.name in readers
        assert not (read or taken), f"{module}, line {getattr(node, 'lineno', '?')}"


def test_there_is_no_import_cycle() -> None:
    left = {module: inner_imports(module) for module in MODULES}
    while leaves := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left, f"among these is a cycle: {sorted(left)}"


BARE_IMPORT = """
import logging, os, sys

reads = []

def ours():
    frame = sys._getframe(2)
    while frame:
        if "ultimate_embedder" in frame.f_code.co_filename:
            return True
        if frame.f_code.co_name == "<module>":
            return False  # a library reads its own variables while it is imported
        frame = frame.f_back
    return False

class Watched(type(os.environ)):
    def __getitem__(self, key):
        if ours():
            reads.append(key)
        return super().__getitem__(key)

    def __iter__(self):
        if ours():
            reads.append("all of it")
        return super().__iter__()

class Shout(logging.Handler):
    def emit(self, record):
        print("logged:", record.getMessage())

os.environ.__class__ = Watched
logging.basicConfig(level=0, handlers=[Shout()])

import processor.ultimate_embedder

heavy = {"torch", "transformers", "faiss", "sentence_transformers", "onnxruntime",
         "qdrant_client", "qdrant_edge", "opentelemetry.sdk"}
print(*sorted(heavy & set(sys.modules)), *reads, sep="\\n", end="")
"""


def test_a_bare_import_loads_nothing_heavy_reads_nothing_and_logs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE_IMPORT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
