"""The notebook template: its form, and its cells run in order, as they stand."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "kaggle.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == kind]


def sources() -> list[str]:
    return ["".join(cell["source"]) for cell in cells("code")]


def test_it_is_a_notebook_without_outputs_whose_cells_have_ids_of_their_own() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    identities = [cell["id"] for cell in document["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in cells("code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_its_code_is_plain_python_without_magics() -> None:
    for source in sources():
        ast.parse(source)


def test_every_script_that_it_names_exists() -> None:
    named = {
        node.value
        for source in sources()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.endswith((".py", "requirements_kaggle.txt"))
    }
    assert len(named) >= 5
    for name in named:
        assert (ROOT / "scripts" / Path(name).name).is_file(), name


def kaggle_with_documents(root: Path) -> None:
    """Lay out the folders as in a notebook with one data set of documents attached."""
    (root / "working").mkdir(parents=True)
    (root / "working" / "embedder").symlink_to(ROOT)  # as an earlier session cloned it
    collection = root / "input" / "my-documents" / "documents" / "qdrant_ecosystem"
    for subdir, name in (
        ("guides", "docs/search-it.md"),
        ("guides", "docs/qdrant.md"),  # on collections: the notebook asks about them
        ("code", "processor/ultimate_embedder/hardware.py"),
    ):
        target = collection / subdir / Path(name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())


@pytest.mark.slow
@pytest.mark.timeout(900)  # ten processes, each importing torch
def test_its_cells_run_in_order_offline_and_without_a_gpu(tmp_path: Path) -> None:
    kaggle = tmp_path / "kaggle"
    kaggle_with_documents(kaggle)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EMBEDDER_")}
    done = subprocess.run(
        [sys.executable, "-"],  # an interactive main: nothing to import again
        input="\n\n".join(sources()),
        cwd=kaggle / "working",
        env=kept
        | {
            "EMBEDDER_KAGGLE_ROOT": str(kaggle),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = kaggle / "working" / "qdrant_ecosystem"
    manifest = json.loads((bundle / "processing_summary.json").read_text())
    assert set(manifest["source_subdirs"]) == {"code", "guides"}
    assert manifest["chunk_count"] > 10
    (dense,) = manifest["dense_run"]
    assert dense["model"] == "all-miniLM-l6"
    assert manifest["export"]["jsonl_layout"] == "simple"
    with zipfile.ZipFile(kaggle / "working" / "qdrant_ecosystem.zip") as archive:
        packed = set(archive.namelist())
    for path in bundle.rglob("*"):
        name = path.relative_to(bundle.parent).as_posix()
        assert path.is_dir() or name in packed
    for said in (
        "The model of this run: all-miniLM-l6",
        f"qdrant_ecosystem has {manifest['chunk_count']} chunks;",
        "Source subdirectories",
        ": whole",
        "1. qdrant_ecosystem:guides:",
    ):
        assert said in done.stdout, said
