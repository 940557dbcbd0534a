"""Workers started from a notebook's conditions: no main module, a running loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CELL = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [ROOT, str(Path(ROOT) / "tests" / "dense")]

class Cell:
    'What a kernel puts in place of standard output: no descriptor beneath it.'
    said = []
    def write(self, text): self.said.append(text)
    def flush(self): pass
    def fileno(self): raise OSError('no descriptor')

from dense_parts import Pass
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.workers.pool import WorkerPool
from dataclasses import replace

async def cell():
    await asyncio.sleep(0)
    assert asyncio.get_running_loop().is_running()
    models, model = ModelManager(offline=True), dense_model("all-miniLM-l6")
    texts = [f"text {number}" for number in range(24)]
    made = Pass(Path(FOLDER), texts, models, model, models.tokenizer(model))
    made.task = replace(made.task, outputs=("dense",))
    command = (sys.executable, str(Path(ROOT) / "tests/dense/fake_worker.py"), ROOT)
    block = made.block(lambda job, _: WorkerPool([job] * 2, command))
    print("rows", len(block.vectors), "batches", block.batches)

shown, sys.stdout = sys.stdout, Cell()
asyncio.run(cell())
shown.write("".join(Cell.said))
"""


def test_workers_are_started_from_standard_input_within_a_running_loop(
    tmp_path: Path,
) -> None:
    cell = f"ROOT, FOLDER = {str(ROOT)!r}, {str(tmp_path)!r}\n{CELL}"
    done = subprocess.run(
        [sys.executable, "-"],
        input=cell,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("rows 24 batches 6\n", "")
