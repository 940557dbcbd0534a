"""Uploads that are killed at any moment, and the same command again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import orjson
import pytest
from delivery_bundle import DENSE, Content, make_content, write_bundle

from processor.ultimate_embedder.delivery.opening import choose_target
from processor.ultimate_embedder.delivery.store import Store
from processor.ultimate_embedder.records import point_id

ROOT = Path(__file__).resolve().parents[2]
ROWS = 2500
KILLS = 20


def start(bundle: Path, option: str, target: Path) -> subprocess.Popen[bytes]:
    """Run the command as it is typed, in a process group of its own."""
    script = ROOT / "scripts" / "upload_to_qdrant.py"
    return subprocess.Popen(
        [sys.executable, str(script), str(bundle), option, str(target), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_work(process: subprocess.Popen[bytes], target: Path) -> None:
    """Return as soon as the target is touched, after the imports."""
    while process.poll() is None and not target.exists():
        time.sleep(0.005)


def killed_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill the process after so long; return whether it was still at work."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def open_store(option: str, target: Path) -> Store:
    path, edge = (target, None) if option == "--path" else (None, target)
    return choose_target(None, path, edge).open("docs")


def check_everything(store: Store, content: Content) -> None:
    """Assert that exactly the bundle's points are there, each with its content."""
    ids = [point_id(chunk.chunk_id) for chunk in content.chunks]
    assert sorted(one for page in store.ids() for one in page) == sorted(ids)
    assert store.count() == len(ids)
    stored = store.fetch(ids)
    for row, identity in enumerate(ids):
        point = stored[identity]
        assert point["payload"]["text"] == content.chunks[row].text
        np.testing.assert_allclose(
            point["vector"][DENSE], content.dense[row], rtol=0, atol=1e-6
        )
        sparse = content.sparse["qdrant-bm25"][row]
        assert point["vector"]["qdrant-bm25"]["indices"] == sparse.indices.tolist()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("option", ["--path", "--edge"])
def test_an_upload_killed_twenty_times_ends_in_the_same_points(
    tmp_path: Path, option: str
) -> None:
    """An upload left alone tells how long one works. Each target is killed at up to
    three random moments of that time, then finished by the same command."""
    content = make_content(ROWS)
    bundle = write_bundle(tmp_path / "bundle", content)
    calm = start(bundle, option, tmp_path / "calm")
    wait_for_work(calm, tmp_path / "calm")
    started = time.monotonic()
    calm.communicate(timeout=200)
    whole = time.monotonic() - started
    chance = random.Random(8)
    killed, went_on, targets = 0, 0, 0
    while killed < KILLS:
        targets += 1
        target = tmp_path / f"target-{targets}"
        for _ in range(chance.randint(1, 3)):
            process = start(bundle, option, target)
            wait_for_work(process, target)
            killed += killed_after(process, whole * chance.random())
        last = start(bundle, option, target)
        out, err = last.communicate(timeout=200)
        assert last.returncode == 0, err.decode()
        report = orjson.loads(out)
        went_on += report["resumed_at"] > 0
        assert report["points_after"] == ROWS
        with closing(open_store(option, target)) as store:
            check_everything(store, content)
    assert went_on > 0
    assert list(tmp_path.glob(".bundle.upload-*")) == []
