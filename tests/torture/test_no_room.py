"""A disk that is really full: a small tmpfs, and a limit on the size of files."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from light_command import LOG, Child, repeated, start
from promises import Promise
from torture_parts import (
    COLLECTION,
    MANIFEST,
    Reference,
    leftovers,
    reference,
    sums,
)

from processor.ultimate_embedder.export import runtime
from processor.ultimate_embedder.records import SparseMatrix
from processor.ultimate_embedder.run import room

STOPPED = 3
rounds_of = pytest.mark.parametrize(
    "rounds", [5, pytest.param(50, marks=pytest.mark.torture)]
)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(tmp_path_factory.mktemp("room"))


def spread(first: int, last: int, rounds: int) -> list[int]:
    """Return sizes in bytes from the first to the last, evenly."""
    step = (last - first) / max(1, rounds - 1)
    return [round(first + step * number) for number in range(rounds)]


def stopped_in_order(child: Child, output: Path) -> None:
    """Assert that the run ended for want of room, with nothing half done to see."""
    assert child.wait() == STOPPED, child.lines
    assert child.lines[-1].startswith("resume with: ")
    told = child.last_line_but_resume()
    assert told.startswith("error: "), child.lines
    assert len(told) < 600
    assert not any("Traceback" in line for line in child.lines)
    assert not (output / COLLECTION / MANIFEST).exists()
    assert not (output / COLLECTION).exists()


def completed(light: Reference, output: Path, arguments: list[str], log: Path) -> None:
    """Run the command where there is room; compare everything."""
    said = log.with_suffix(".said")
    child = start(arguments, said, environment={LOG: str(log)})
    assert child.wait() == 0, child.lines
    assert sums(output) == light.files
    assert leftovers(output) == []
    assert repeated(log, light.log) <= light.largest_batch


class Pipe:
    """Takes what a child writes that may write no file."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def drained(self) -> str:
        """Return all that was written, once the child has ended."""
        os.close(self.writer)
        with os.fdopen(self.reader, encoding="utf-8") as stream:
            return stream.read()


@rounds_of
def test_no_file_may_grow_beyond_a_size(
    light: Reference, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "No file may grow beyond a size (RLIMIT_FSIZE), sizes spread over a run: exit "
        "code 3, no half bundle; with room the same command gives the same bytes"
    )
    output = light.root / "out"
    largest = max(path.stat().st_size for path in (light.root / "reference").rglob("*"))
    for size in promise.rounds(spread(100, largest - 1, rounds)):
        shutil.rmtree(output, ignore_errors=True)
        said, log = Pipe(), Pipe()

        def limited(size: int = size, said: Pipe = said) -> None:
            for number in (1, 2):
                os.dup2(said.writer, number)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        limit = {LOG: f"/dev/fd/{log.writer}"}
        child = start(
            light.arguments, tmp_path / "no", prepare=limited, environment=limit
        )
        status = child.wait()
        lines = said.drained().splitlines()
        assert status == STOPPED, (size, lines)
        assert lines[-1].startswith("resume with: "), lines
        assert lines[-2].startswith("error: "), lines
        assert not any("Traceback" in line for line in lines)
        assert not (output / COLLECTION).exists(), size
        kept = tmp_path / "log"
        kept.write_text(log.drained(), encoding="ascii")
        completed(light, output, light.arguments, kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder where a small file system can be put."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("this process may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def resized(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


@rounds_of
def test_a_small_disk_is_full(
    light: Reference,
    tmp_path: Path,
    small_disk: Path,
    rounds: int,
    promise: Promise,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promise.holds(
        "A disk (tmpfs) that is full, sizes spread over what a run needs: exit code 3, "
        "no half bundle; once there is room the same command gives the same bytes"
    )
    # What is asked for beforehand would refuse so small a disk: the run must go wrong.
    monkeypatch.setattr(room, "require_free_space", lambda *_: None)
    arguments = list(light.arguments)
    output = small_disk / "out"
    arguments[arguments.index("--output-dir") + 1] = str(output)
    resized(small_disk, 2**28)
    log = tmp_path / "log"
    whole = start(arguments, tmp_path / "said", environment={LOG: str(log)})
    assert whole.wait() == 0, whole.lines
    # In the middle a run takes more than what is left at its end. A page about the run
    # that does not fit is no reason to stop.
    needed = sum(
        file.stat().st_blocks * 512
        for file in small_disk.rglob("*")
        if not file.name.endswith("_report.html")
    )
    for size in promise.rounds(spread(8192, needed - 8192, rounds)):
        shutil.rmtree(output, ignore_errors=True)
        log.unlink()
        resized(small_disk, size)
        child = start(arguments, tmp_path / "said", environment={LOG: str(log)})
        stopped_in_order(child, output)
        resized(small_disk, 2**28)
        completed(light, output, arguments, log)


def fill(place: Path, left: int) -> None:
    """Take all of a disk but so many bytes, as another program may."""
    with (place / "other").open("wb", buffering=0) as stream:
        with contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        stream.truncate(stream.tell() - left)


@pytest.mark.parametrize("rounds", [2, pytest.param(9, marks=pytest.mark.torture)])
def test_a_disk_is_full_when_inverted_lists_are_written(
    tmp_path: Path, small_disk: Path, rounds: int
) -> None:
    """They are filled through memory maps, and here larger than the page that their
    header has: one without room would end the process."""
    many = reference(tmp_path, 60)
    arguments = list(many.arguments)
    output = small_disk / "out"
    arguments[arguments.index("--output-dir") + 1] = str(output)
    resized(small_disk, 2**28)
    lists = many.root / "reference" / COLLECTION / f"{COLLECTION}_qdrant-bm25_postings"
    needed = sum(path.stat().st_blocks * 512 for path in lists.iterdir())
    assert needed > 8 * 4096
    log = tmp_path / "log"
    real = runtime.write_postings
    for left in spread(4096, needed - 4096, rounds):

        def filled(
            matrix: SparseMatrix,
            folder: Path,
            *,
            average_length: float | None,
            left: int = left,
        ) -> None:
            fill(small_disk, left)
            real(matrix, folder, average_length=average_length)

        def prepare(filled: Callable[..., None] = filled) -> None:
            runtime.write_postings = filled

        child = start(
            arguments, tmp_path / "said", environment={LOG: str(log)}, prepare=prepare
        )
        stopped_in_order(child, output)
        (small_disk / "other").unlink()
        completed(many, output, arguments, log)
        shutil.rmtree(output)
        log.unlink()


def test_too_small_a_disk_is_refused_before_the_work(
    light: Reference, tmp_path: Path, small_disk: Path
) -> None:
    arguments = list(light.arguments)
    arguments[arguments.index("--output-dir") + 1] = str(small_disk / "out")
    log = tmp_path / "log"
    child = start(arguments, tmp_path / "said", environment={LOG: str(log)})
    stopped_in_order(child, small_disk / "out")
    assert "Not enough disk space" in child.last_line_but_resume()
    assert not log.exists()


def test_what_a_full_disk_left_is_told_in_json_too(
    light: Reference, tmp_path: Path, small_disk: Path
) -> None:
    arguments = [*light.arguments, "--log-format", "json"]
    arguments[arguments.index("--output-dir") + 1] = str(small_disk / "out")
    child = start(arguments, tmp_path / "said")
    assert child.wait() == STOPPED
    told = json.loads(child.lines[-1])
    assert told["exit_code"] == STOPPED
    assert told["resume"].endswith(os.fspath(arguments[-1]))
