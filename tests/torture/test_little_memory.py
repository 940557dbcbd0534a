"""Little memory, and input of unreasonable size: a line that says so, nothing lost."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from light_command import LOG, Child, repeated, start
from promises import Promise
from torture_parts import COLLECTION, Reference, reference, sums

from processor.ultimate_embedder.intake import chunks
from processor.ultimate_embedder.intake.chunk_store import ChunkStore
from processor.ultimate_embedder.intake.chunks import find_collections
from processor.ultimate_embedder.telemetry.events import silent

MIB = 2**20
STOPPED, USAGE = 3, 2
CRASHED = (-6, -11)  # tokenizers and OpenBLAS end the process where they get no memory


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(tmp_path_factory.mktemp("memory"))


def limited(more: int) -> Callable[[], None]:
    """Return what lets a process grow by so many bytes and no more."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return limit


def told_in_one_line(child: Child) -> None:
    assert child.lines[-1].startswith("resume with: "), child.lines
    assert child.lines[-2].startswith("error: "), child.lines
    assert not any("Traceback" in line for line in child.lines)


@pytest.mark.parametrize("rounds", [4, pytest.param(40, marks=pytest.mark.torture)])
def test_a_run_with_little_memory_can_go_on_with_more(
    light: Reference, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "RLIMIT_AS a little above what the process has: one line and exit code 3 where "
        "Python is refused memory; the same command without the limit ends in the same "
        "bytes, also where a native library ended the process"
    )
    log = tmp_path / "log"
    for number in promise.rounds(range(rounds)):
        shutil.rmtree(light.root / "out", ignore_errors=True)
        log.unlink(missing_ok=True)
        child = start(
            light.arguments,
            tmp_path / "said",
            prepare=limited(number * 160 * MIB // rounds),
            environment={LOG: str(log)},
        )
        status = child.wait()
        assert status in (0, STOPPED, *CRASHED), child.lines
        if status == STOPPED:
            told_in_one_line(child)
        if (light.root / "out" / COLLECTION).exists():
            assert sums(light.root / "out") == light.files
        child = start(light.arguments, tmp_path / "said", environment={LOG: str(log)})
        assert child.wait() == 0, child.lines
        assert sums(light.root / "out") == light.files
        assert repeated(log, light.log) <= light.largest_batch


def test_a_chunk_file_larger_than_the_memory_left_stops_the_run(
    light: Reference, tmp_path: Path, promise: Promise
) -> None:
    promise.holds("A chunk file larger than the memory left: one line, exit code 3")
    root = tmp_path / "large"
    folder = root / "chunked" / COLLECTION
    folder.mkdir(parents=True)
    text = "word " * (12 * MIB)
    (folder / "large_chunks.json").write_text(json.dumps([{"text": text}]))
    (root / "queries.jsonl").write_bytes((light.root / "queries.jsonl").read_bytes())
    arguments = [part.replace(str(light.root), str(root)) for part in light.arguments]
    arguments += ["--exports", "npy,jsonl"]  # so that faiss takes no memory
    child = start(arguments, tmp_path / "said", prepare=limited(40 * MIB))
    assert child.wait() == STOPPED, child.lines
    told_in_one_line(child)
    assert "Memory ran out" in child.lines[-2]


def test_faiss_is_looked_for_before_the_work(
    light: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    shutil.rmtree(light.root / "out", ignore_errors=True)
    log = tmp_path / "log"
    child = start(light.arguments, tmp_path / "said", environment={LOG: str(log)})
    assert child.wait() == USAGE, child.lines
    assert "faiss is not installed" in child.lines[-1]
    assert not log.exists()


def read(root: Path) -> ChunkStore:
    return ChunkStore.build(find_collections(root)[0], root / "work", silent)


def test_sizes_of_input_have_limits_and_each_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Promise
) -> None:
    promise.holds(
        "Files and texts beyond the stated sizes, JSON nested too deep, numbers of "
        "endless digits: set aside with the reason, the rest goes on"
    )
    monkeypatch.setattr(chunks, "MAX_CHUNK_FILE_BYTES", 3 * MIB)
    monkeypatch.setattr(chunks, "MAX_TEXT_CHARACTERS", 2 * MIB)
    folder = tmp_path / "docs"
    folder.mkdir()
    good = json.dumps({"text": "good"})
    long_text = [{"text": "x" * (2 * MIB + 1)}, json.loads(good)]
    deep = '{"metadata": {"deep": %s}, "text": "deep"}'
    contents = {
        "file": '["' + "x" * 3 * MIB + '"]',
        "text": json.dumps(long_text),
        "list": "[" * 100_000 + "]" * 100_000,
        "metadata": f"[{deep % ('[' * 900 + ']' * 900)}, {good}]",
        "digits": f'[{{"text": "n", "metadata": {{"n": {"9" * 5000}}}}}, {good}]',
        "integer": f'[{{"text": "i", "metadata": {{"n": {2**70}}}}}, {good}]',
    }
    for name, content in contents.items():
        (folder / f"{name}_chunks.json").write_text(content)
    store = read(tmp_path)
    aside = {
        one.file.split("_")[0]: one.reason for one in store.conservation.quarantined
    }
    assert aside == {
        "file": "too_large",
        "text": "too_long",
        "list": "not_json",
        "metadata": "metadata_not_json",
        "digits": "not_json",
        "integer": "metadata_not_json",
    }
    assert store.conservation.adds_up
    assert len(store) == 3  # of `text`, `metadata` and `integer`


@pytest.mark.parametrize(
    "rounds", [2000, pytest.param(200_000, marks=pytest.mark.torture)]
)
def test_a_great_many_tiny_files_are_all_counted(
    tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds("A collection of very many tiny files: each is read and counted")
    for number in promise.rounds(range(rounds)):
        folder = tmp_path / "docs" / f"{number // 1000}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}_chunks.json").write_text(f'{{"text": "{number}"}}')
    store = read(tmp_path)
    assert store.conservation.files_read == len(store) == rounds
    assert store.conservation.adds_up
