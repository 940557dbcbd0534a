"""Worker processes: the same bytes for any number of them, and one may die."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dense_parts import Pass, hashing, long_text

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.sources import ModelLocation
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.errors import ModelError, RunStopped
from processor.ultimate_embedder.ledger import Ledger
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.stages.dense import OpenExecutor
from processor.ultimate_embedder.stages.dense_files import PassFiles, PassInput
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    Event,
    StageFinished,
    StageStarted,
)
from processor.ultimate_embedder.testing import HashingEncoder, RecordingListener
from processor.ultimate_embedder.workers.batch_encoder import check_unit_vectors
from processor.ultimate_embedder.workers.jobs import (
    BatchReply,
    BatchRequest,
    EncodeJob,
)
from processor.ultimate_embedder.workers.opening import in_process
from processor.ultimate_embedder.workers.pool import BatchExecutor, WorkerPool

MakePass = Callable[[str], Pass]


@pytest.fixture
def make_pass(
    texts: list[str],
    manager: ModelManager,
    minilm: ModelConfig,
    tokenizer: HubTokenizer,
    tmp_path: Path,
) -> MakePass:
    return lambda name: Pass(
        tmp_path / name, [*texts[::3], long_text(2200)], manager, minilm, tokenizer
    )


def pool_of(workers: int) -> OpenExecutor:
    return lambda job, _: WorkerPool([job] * workers)


@pytest.fixture(scope="module")
def undisturbed(
    texts: list[str],
    manager: ModelManager,
    minilm: ModelConfig,
    tokenizer: HubTokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[bytes, bytes]:
    """What one worker makes of the texts."""
    folder = tmp_path_factory.mktemp("undisturbed")
    some = [*texts[::3], long_text(2200)]
    return Pass(folder, some, manager, minilm, tokenizer).run(pool_of(1))


def test_one_worker_and_two_give_the_same_bytes(
    make_pass: MakePass, undisturbed: tuple[bytes, bytes]
) -> None:
    assert make_pass("two").run(pool_of(2)) == undisturbed


def test_what_a_worker_raises_arrives_by_its_own_class(
    make_pass: MakePass, manager: ModelManager, minilm: ModelConfig, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(manager.locate(minilm).path, damaged)
    (damaged / "model.safetensors").write_bytes(b"no weights")
    passing = make_pass("damaged-weights")
    passing.task = replace(
        passing.task, location=ModelLocation(damaged, "revision", "folder")
    )
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        passing.run(pool_of(1))
    assert type(caught.value) is ModelError
    assert caught.value.cure is not None


class KillingListener(RecordingListener):
    """Kills one worker of the pool when so many batches are done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.pool: WorkerPool | None = None
        self.killed = False

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        done = len(self.of(BatchFinished))
        if self.pool and done == self.after and not self.killed:
            os.kill(self.pool.process_ids[0], signal.SIGKILL)
            self.killed = True

    def open(self, workers: int) -> OpenExecutor:
        @contextmanager
        def open_pool(job: EncodeJob, _: int) -> Iterator[BatchExecutor]:
            with WorkerPool([job] * workers) as self.pool:
                yield self.pool
            self.pool = None

        return open_pool


def test_a_worker_whose_run_is_gone_ends_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from processor.ultimate_embedder.workers.process"]
    command[-1] += " import main; main()"
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()  # its answer, that there is no such model, reaches no one
    job = EncodeJob(
        model=dense_model("all-miniLM-l6"),
        location=tmp_path / "nowhere",
        tokens=tmp_path,
        plan=tmp_path,
        pieces=tmp_path,
        vectors=tmp_path,
    )
    _, said = process.communicate(job.to_line(), timeout=120)
    assert (process.returncode, said) == (0, b"")


def test_killing_one_of_two_workers_changes_no_byte(
    make_pass: MakePass, undisturbed: tuple[bytes, bytes]
) -> None:
    disturbed = make_pass("disturbed")
    disturbed.heard = killing = KillingListener(after=2)
    assert disturbed.run(killing.open(2)) == undisturbed
    assert killing.killed
    assert len(killing.of(BatchFinished)) == len(disturbed.plan)


def test_when_every_worker_dies_the_run_stops_and_resumes(
    make_pass: MakePass, undisturbed: tuple[bytes, bytes]
) -> None:
    disturbed = make_pass("resumed")
    disturbed.heard = killing = KillingListener(after=2)
    with pytest.raises(RunStopped, match=r"Every worker process died \(signal 9\)"):
        disturbed.run(killing.open(1))
    assert 2 <= len(killing.of(BatchFinished)) < len(disturbed.plan)
    killing.pool = None
    assert disturbed.run(pool_of(1)) == undisturbed
    assert len(killing.of(BatchFinished)) == len(disturbed.plan)


def test_equal_texts_are_computed_once_and_stored_for_each(
    manager: ModelManager, minilm: ModelConfig, tokenizer: HubTokenizer, tmp_path: Path
) -> None:
    texts = ["alpha beta", "gamma", "alpha beta", "gamma", "delta"]
    passing = Pass(tmp_path, texts, manager, minilm, tokenizer)
    block = passing.block(in_process(hashing))
    assert block.computed_chunks == 3
    (started,) = passing.heard.of(StageStarted)
    (finished,) = passing.heard.of(StageFinished)
    assert (started.total, started.unit) == (3, "texts")
    assert (finished.items, finished.repeats) == (5, 2)
    assert block.vectors is not None
    expected = HashingEncoder(384).encode(tokenizer.encode(texts, "document").ids)
    np.testing.assert_array_equal(block.vectors, expected)


class DyingExecutor:
    """Does so many batches and stops."""

    def __init__(self, executor: BatchExecutor, batches: int) -> None:
        self._executor, self._batches = executor, batches

    def run(self, requests: Sequence[BatchRequest]) -> Iterator[BatchReply]:
        yield from self._executor.run(requests[: self._batches])
        raise RunStopped("The power is gone.")


def dying_after(batches: int) -> OpenExecutor:
    @contextmanager
    def open_executor(job: EncodeJob, count: int) -> Iterator[BatchExecutor]:
        with in_process(hashing)(job, count) as executor:
            yield DyingExecutor(executor, batches)

    return open_executor


def computed(passing: Pass) -> int:
    """Run to the end and return how many batches that took."""
    before = len(passing.heard.of(BatchFinished))
    passing.run(in_process(hashing))
    return len(passing.heard.of(BatchFinished)) - before


def test_vectors_cut_short_before_the_first_batch_are_made_anew(
    make_pass: MakePass,
) -> None:
    whole = make_pass("whole").run(in_process(hashing))
    cut = make_pass("cut")
    with pytest.raises(RunStopped):
        cut.run(dying_after(0))
    for name in ("vectors.npy", "windows.npy", "attention.f32"):
        (file,) = cut.folder.glob(f"dense-*/{name}")
        file.write_bytes(file.read_bytes()[:50])
    assert cut.run(in_process(hashing)) == whole


def test_vectors_cut_short_after_the_last_batch_are_made_anew(
    make_pass: MakePass,
) -> None:
    passing = make_pass("whole")
    whole = passing.run(in_process(hashing))
    for name in ("vectors.npy", "windows.npy", "attention.f32"):
        (file,) = passing.folder.glob(f"dense-*/{name}")
        file.write_bytes(file.read_bytes()[:-1000])
        assert passing.run(in_process(hashing)) == whole


def test_a_pass_goes_on_where_it_stopped(make_pass: MakePass) -> None:
    whole = make_pass("whole").run(in_process(hashing))
    stopped = make_pass("stopped")
    with pytest.raises(RunStopped):
        stopped.run(dying_after(3))
    assert stopped.run(in_process(hashing)) == whole
    assert len(stopped.heard.of(BatchFinished)) == len(stopped.plan)


def test_what_other_settings_or_libraries_made_is_not_taken_up(
    make_pass: MakePass, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = make_pass("again")
    batches = len(passing.plan)
    assert computed(passing) == batches
    assert computed(passing) == 0
    folder = passing.task.location.path
    narrow = replace(passing.task.model, vector_dim=32)
    short = replace(narrow, max_tokens=narrow.max_tokens - 1)
    for change in (  # each beside those before it
        {"dtype": "other"},
        {"tokenizer_fingerprint": "new"},
        {"location": ModelLocation(folder, "c" * 40, "cache")},
        {"model": narrow},
        {"model": short},
        {"model": replace(short, pooling="cls")},
    ):
        passing.task = replace(passing.task, **change)
        assert computed(passing) == batches, change
    version = importlib.metadata.version
    other: set[str] = set()
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.0" if name in other else version(name),
    )
    for library in ("torch", "tokenizers"):
        other.add(library)
        assert computed(passing) == batches, library


def test_the_runtime_of_graphs_decides_the_bytes_of_graphs_alone(
    make_pass: MakePass, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = make_pass("again")
    batches = len(passing.plan)
    assert computed(passing) == batches
    version = importlib.metadata.version
    runtime = ["1.0"]
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: runtime[-1] if name == "onnxruntime" else version(name),
    )
    assert computed(passing) == 0
    graph = replace(passing.task.model, backend="onnx")
    passing.task = replace(passing.task, model=graph)
    assert computed(passing) == batches
    runtime.append("2.0")
    assert computed(passing) == batches


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5, 2.0])
def test_a_vector_that_is_not_of_unit_length_is_refused(value: float) -> None:
    vectors = np.eye(3, 4, dtype=np.float32)
    check_unit_vectors(vectors, "m")
    vectors[1, 1] = value
    with pytest.raises(ModelError, match="1 vectors that are not of unit length"):
        check_unit_vectors(vectors, "m")


def test_a_request_says_which_rows_each_output_lacks() -> None:
    request = BatchRequest(7, ("dense", "attention"), {"dense": (1, 3)})
    assert BatchRequest.from_line(request.to_line()) == request
    assert request.rows(5) == [0, 1, 2, 3, 4]
    assert request.lacking("dense", request.rows(5)) == [1, 3]
    assert request.lacking("attention", request.rows(5)) == [0, 1, 2, 3, 4]
    parts = BatchRequest(7, ("dense", "attention"), {"dense": (3,), "attention": (1,)})
    assert parts.rows(5) == [1, 3]
    assert parts.lacking("dense", [1, 3]) == [1]
    assert parts.lacking("attention", [1, 3]) == [0]
    assert BatchRequest(7, ("dense",), {"dense": (4,)}).rows(5) == [4]


def test_what_was_taken_over_is_not_searched_for_each_batch(
    make_pass: MakePass, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a million rows were taken over, that took 5 ms a batch and 82 s in all.
    passing = make_pass("pass")
    over = PassInput(passing.tokens, passing.pieces, passing.plan, passing.first)
    searches: list[int] = []
    monkeypatch.setattr(np, "isin", lambda few, _: searches.append(1) or few < 0)
    with Ledger(passing.folder / "ledger.sqlite") as ledger:
        files = PassFiles(passing.folder, ledger, passing.task, over)
        files.prepare()
        searches.clear()
        assert len(files.requests()) == len(passing.plan)
    assert searches == []
