"""The examples for Python, run in order from an interactive main, as in a notebook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_examples_run_in_order_typed_into_an_interpreter(tmp_path: Path) -> None:
    folder = tmp_path / "Chunked" / "qdrant_ecosystem" / "docs"
    folder.mkdir(parents=True)
    chunks = [{"text": f"Part {part} on vectors and filters."} for part in range(40)]
    (folder / "guide_chunks.json").write_text(json.dumps(chunks), encoding="utf-8")
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(page)
    assert len(blocks) == 3
    done = subprocess.run(
        [sys.executable, "-"],  # workers start without a main file to import
        input="\n".join(blocks),
        cwd=tmp_path,
        env={
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "40 chunks in Embeddings/qdrant_ecosystem" in said
    assert "(40, 384) float32" in said
    assert "Represent this query for searching relevant code: " in said
    bundle = tmp_path / "Embeddings" / "qdrant_ecosystem"
    assert (bundle / "processing_summary.json").is_file()
