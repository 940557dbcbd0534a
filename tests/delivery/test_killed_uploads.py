"""Uploads that are killed at any moment, and the same command again."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from contextlib import closing
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import orjson
import pytest
from delivery_bundle import DENSE, Content, make_content, write_bundle

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.upload import upload
from processor.ultimate_embedder.delivery.opening import choose_target
from processor.ultimate_embedder.delivery.store import Store
from processor.ultimate_embedder.records import point_id

ROWS = {"--path": 600, "--edge": 2500}  # the local mode commits each point alone
KILLS = 20
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "qdrant_client", "qdrant_edge"])


def run_command(bundle: Path, option: str, target: Path, report: Path) -> None:
    """Do what the script does, in a process that has imported everything."""
    with report.open("w") as out:
        os.dup2(out.fileno(), 1)
        code = run_function(upload, [str(bundle), option, str(target), "--json"])
        sys.stdout.flush()
    os._exit(code)


def start(bundle: Path, option: str, target: Path, report: Path) -> ForkServerProcess:
    """Start the command and return as soon as it has touched the target."""
    process = PROCESSES.Process(
        target=run_command, args=(bundle, option, target, report)
    )
    process.start()
    while process.is_alive() and not target.exists():
        time.sleep(0.002)
    return process


def killed_after(process: ForkServerProcess, seconds: float) -> bool:
    """Kill the process after so long; return whether it was still at work."""
    process.join(seconds)
    at_work = process.is_alive()
    process.kill()
    process.join()
    process.close()
    return at_work


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
    content = make_content(ROWS[option])
    bundle = write_bundle(tmp_path / "bundle", content)
    report = tmp_path / "report.json"
    calm = start(bundle, option, tmp_path / "calm", report)
    started = time.monotonic()
    calm.join()
    whole = time.monotonic() - started
    assert calm.exitcode == 0
    chance = random.Random(8)
    killed, went_on, targets = 0, 0, 0
    while killed < KILLS:
        targets += 1
        target = tmp_path / f"target-{targets}"
        for _ in range(chance.randint(1, 3)):
            process = start(bundle, option, target, report)
            killed += killed_after(process, whole * chance.random())
        last = start(bundle, option, target, report)
        last.join()
        assert last.exitcode == 0
        told = orjson.loads(report.read_bytes())
        went_on += told["resumed_at"] > 0
        assert told["points_after"] == ROWS[option]
        with closing(open_store(option, target)) as store:
            check_everything(store, content)
    assert went_on > 0
    assert list(tmp_path.glob(".upload-*")) == []
