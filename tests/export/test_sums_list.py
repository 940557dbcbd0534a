"""`SHA256SUMS` is what GNU sha256sum reads, whatever the names."""

from __future__ import annotations

import errno
import hashlib
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from bundle_parts import export_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.export.checksums import (
    HashedFile,
    file_sha256,
    format_sums,
    parse_sums,
)

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1
)


def sha256sum_check(folder: Path) -> int:
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("this system has no sha256sum")
    command = [program, "--strict", "--quiet", "-c", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, check=False).returncode


@given(st.dictionaries(NAMES, st.binary().map(lambda b: hashlib.sha256(b).hexdigest())))
def test_a_list_reads_back(sums: dict[str, str]) -> None:
    assert parse_sums(format_sums(sums.items())) == sums


@pytest.mark.parametrize(
    "collection", ["docs", "with space", "a\\b", "a\nb", "Ω 🦀", "-c"]
)
def test_sha256sum_accepts_a_bundle_and_sees_damage(
    tmp_path: Path, collection: str
) -> None:
    bundle = export_bundle(tmp_path, rows=3, collection=collection)
    assert sha256sum_check(bundle) == 0
    victim = next(bundle.rglob("*_postings/values.npy"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x55")
    assert sha256sum_check(bundle) != 0


def test_entries_are_sorted_bytewise() -> None:
    content = format_sums([("b", "0" * 64), ("é", "1" * 64), ("B", "2" * 64)])
    assert [line[-1] for line in content.decode().splitlines()] == ["B", "b", "é"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"nonsense\n", "Line 1"),
        (b"0" * 64 + b"  a\n" + b"0" * 64 + b"  a\n", "Line 2"),
        (b"0" * 64 + b"  a", "breaks off in line 1"),
        (b"\xff\n", "byte 0"),
    ],
)
def test_a_damaged_list_is_refused_with_its_place(content: bytes, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        parse_sums(content)


def test_a_file_is_hashed_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with HashedFile(path) as file:
        assert file.write(b"abc") == 3
        assert file.write(memoryview(b"de")) == 2
    with pytest.raises(ValueError, match="closed"):
        file.write(b"f")
    assert path.read_bytes() == b"abcde"
    assert file.sha256 == file_sha256(path) == hashlib.sha256(b"abcde").hexdigest()


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 700_000), max_size=12))
def test_pieces_of_any_size_stand_in_the_order_they_came_in(sizes: list[int]) -> None:
    pieces = [bytes([65 + place]) * size for place, size in enumerate(sizes)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        with HashedFile(path) as file:
            for piece in pieces:
                file.write(piece)
        assert path.read_bytes() == b"".join(pieces)
    assert file.bytes_written == sum(sizes)
    assert file.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("pieces", [1, 40])
def test_a_full_disk_is_an_error_of_the_writer(pieces: int) -> None:
    with pytest.raises(OSError, match="No space") as raised:  # noqa: SIM117
        with HashedFile(Path("/dev/full")) as file:
            for _ in range(pieces):
                file.write(b"x" * 100_000)
    assert raised.value.errno == errno.ENOSPC
