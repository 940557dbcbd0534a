"""Workers that die at every moment: the others redo what they had, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from dense_parts import Pass, hashing, long_text

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.errors import DeviceOutOfMemory, RunStopped
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.stages.dense import OpenExecutor
from processor.ultimate_embedder.telemetry.events import BatchFinished
from processor.ultimate_embedder.workers.jobs import BatchRequest, EncodeJob
from processor.ultimate_embedder.workers.opening import in_process
from processor.ultimate_embedder.workers.pool import BatchExecutor, WorkerPool

ROOT = Path(__file__).resolve().parents[2]
FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")), str(ROOT))
MakePass = Callable[[str], Pass]


def workers(*devices: str) -> OpenExecutor:
    """Return what opens a pool of fake workers that fail as their devices say."""
    return lambda job, _: WorkerPool(
        [replace(job, device=device) for device in devices], FAKE
    )


@pytest.fixture
def make_pass(
    manager: ModelManager, minilm: ModelConfig, tokenizer: HubTokenizer, tmp_path: Path
) -> MakePass:
    def make(name: str) -> Pass:
        texts = [f"text {number} of a few words" for number in range(40)]
        passing = Pass(tmp_path / name, texts, manager, minilm, tokenizer)
        passing.task = replace(
            passing.task,
            outputs=("dense",),
            chunk_id=lambda row: f"c:s:f.md:chunk:{row}",
        )
        return passing

    return make


def vectors(passing: Pass, open_executor: OpenExecutor) -> bytes:
    found = passing.block(open_executor).vectors
    assert found is not None
    return found.tobytes()


@pytest.mark.parametrize(
    "how",
    ["dies-starting", "dies-idle", "dies-mid-row", "dies-mid-answer", "no-room"],
)
def test_what_a_lost_worker_had_is_done_by_the_other(
    how: str, make_pass: MakePass, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = vectors(make_pass("undisturbed"), in_process(hashing))
    disturbed = make_pass("disturbed")
    assert vectors(disturbed, workers(how, "waits")) == undisturbed
    assert len(disturbed.heard.of(BatchFinished)) == len(disturbed.plan)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"A worker on {how} ended (")


@pytest.mark.timeout(60)
def test_a_worker_on_a_gpu_has_a_second_batch_before_it_answers(
    make_pass: MakePass,
) -> None:
    undisturbed = vectors(make_pass("undisturbed"), in_process(hashing))
    ahead = make_pass("ahead")
    assert vectors(ahead, workers("holds-its-first")) == undisturbed
    assert len(ahead.heard.of(BatchFinished)) == len(ahead.plan) > 2


class Enough(Exception):
    """Ends a pass from within."""


def test_a_worker_writes_into_the_files_it_began_with(make_pass: MakePass) -> None:
    """One that outlives its run meets the files of the next one under their names."""

    @contextmanager
    def opened(job: EncodeJob, _: int) -> Iterator[BatchExecutor]:
        with in_process(hashing)(job, 1) as executor:
            next_ones = job.vectors.read_bytes()
            its_own = job.vectors.rename(job.vectors.with_name("before.npy"))
            job.vectors.write_bytes(next_ones)
            assert list(executor.run([BatchRequest(0, ("dense",))]))
            assert job.vectors.read_bytes() == next_ones
            assert its_own.read_bytes() != next_ones
        raise Enough
        yield executor

    with pytest.raises(Enough):
        make_pass("replaced").block(opened)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to kill them")
def test_workers_die_with_a_run_that_is_killed_in_their_batch(tmp_path: Path) -> None:
    folder = tmp_path / "chunked" / "docs"
    folder.mkdir(parents=True)
    chunks = [{"text": f"{long_text(40)} {number}"} for number in range(600)]
    (folder / "a_chunks.json").write_text(json.dumps(chunks))
    command = [
        *(sys.executable, str(ROOT / "scripts" / "embed_collections_v6.py")),
        *("--chunked-dir", str(tmp_path / "chunked"), "--offline"),
        *("--output-dir", str(tmp_path / "out"), "--disable-rerank"),
    ]
    run = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        kept = tmp_path / "out" / ".work" / "docs" / "dense-all-miniLM-l6"
        wait_for(lambda: any(read_or_nothing(kept / "vectors.npy")[1024:]))
        workers = run.children()
        for worker in workers:
            worker.suspend()  # the end of its input would not reach it
    finally:
        run.kill()
        run.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        worker.kill()
    assert len(gone) == len(workers) > 0


def read_or_nothing(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def wait_for(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_when_no_worker_has_room_the_chunk_is_named_and_the_same_command_resumes(
    make_pass: MakePass,
) -> None:
    passing = make_pass("no-room")
    longest = int(passing.plan.batch(0)[0])
    with pytest.raises(DeviceOutOfMemory) as caught:
        vectors(passing, workers("no-room", "no-room-either"))
    tokens = len(passing.tokens.row(longest))
    assert caught.value.message == (
        "Model all-miniLM-l6 ran out of memory on cuda:1 with one text of "
        f"{tokens} tokens alone, the cap is 12.00 GiB. It belongs to chunk "
        f"c:s:f.md:chunk:{longest}."
    )
    assert caught.value.cure is not None
    undisturbed = vectors(make_pass("undisturbed"), in_process(hashing))
    assert vectors(passing, workers("cpu")) == undisturbed


def test_when_every_worker_dies_at_its_start_the_run_stops(make_pass: MakePass) -> None:
    with pytest.raises(RunStopped, match=r"Every worker process died \(signal 9, sig"):
        vectors(make_pass("dead"), workers("dies-starting", "dies-starting"))


@pytest.mark.slow
def test_a_worker_that_the_machine_gives_no_memory_says_which_chunk_it_had(
    manager: ModelManager, minilm: ModelConfig, tokenizer: HubTokenizer, tmp_path: Path
) -> None:
    texts = ["short", long_text(250), *(long_text(n) for n in range(200, 206))]
    passing = Pass(tmp_path / "limited", texts, manager, minilm, tokenizer)
    passing.task = replace(passing.task, chunk_id=lambda row: f"c:s:f.md:chunk:{row}")
    script = str(Path(__file__).with_name("limited_worker.py"))
    with pytest.raises(
        DeviceOutOfMemory,
        match=r"Model all-miniLM-l6 ran out of memory on cpu with one text of "
        r"\d+ tokens alone, .* GiB \(\d+ bytes\) used\. It belongs to chunk "
        r"c:s:f\.md:chunk:[1-7]\. Use fewer workers\. .* --max-tokens",
    ):
        passing.run(
            lambda job, _: WorkerPool([job], (sys.executable, script, str(ROOT), "0"))
        )
    assert len(passing.run(workers_in_here(manager))) == 2


def workers_in_here(manager: ModelManager) -> OpenExecutor:
    def load(job: EncodeJob) -> AbstractContextManager[AttentionEncoder]:
        return manager.resident(job.model)

    return in_process(load)


def test_workers_that_have_run_out_of_work_take_up_more(make_pass: MakePass) -> None:
    passing = make_pass("twice")
    bytes_each_time = []

    @contextmanager
    def run_twice(job: EncodeJob, _: int) -> Iterator[BatchExecutor]:
        with WorkerPool([job], FAKE) as pool:
            requests = [BatchRequest(i, ("dense",)) for i in range(len(passing.plan))]
            for _ in range(2):
                list(pool.run(requests))
                bytes_each_time.append(job.vectors.read_bytes())
            yield pool

    vectors(passing, run_twice)
    assert bytes_each_time[0] == bytes_each_time[1]
