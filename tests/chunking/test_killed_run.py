"""A run that is killed leaves no process behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "chunk_docs_v5.py"
PAGES = 200


def children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(one) for one in found.split()]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells children")
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    pages = tmp_path / "docs" / "manual"
    pages.mkdir(parents=True)
    for number in range(PAGES):
        text = "\n\n".join(f"## Part {n}\n\n{'word ' * 300}" for n in range(40))
        (pages / f"{number:03d}.md").write_text(f"# Page {number}\n\n{text}")
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--input-dir", str(tmp_path / "docs")]
    with subprocess.Popen(
        [*command, "--output-dir", str(out), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as run:
        wait_until(lambda: any(out.glob("manual/*.json")))
        workers = children(run.pid)
        assert len(workers) >= 2
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert len(list(out.glob("manual/*.json"))) < PAGES  # it was at work
    wait_until(lambda: not any(map(is_running, workers)))
