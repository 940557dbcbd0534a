"""Any flipped bit and any cut in any file of a real bundle is found, and named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from real_bundle import contents, run_bundle

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.verify import verify_bundle


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = run_bundle(tmp_path_factory.mktemp("run"))
    assert verify_bundle(bundle).whole
    assert len(contents(bundle)) == 18
    return bundle


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "docs"))


def assert_found(bundle: Path, name: str, damaged: bytes | None, told: str) -> None:
    """Damage one file, verify, and put it back."""
    path = bundle / name
    content = path.read_bytes()
    path.unlink()
    if damaged is not None:
        assert damaged != content, told
        path.write_bytes(damaged)
    report = verify_bundle(bundle)
    path.write_bytes(content)
    assert not report.whole, told
    assert name in {finding.file for finding in report.findings}, told


def flip_bits(bundle: Path, rounds: int, seed: int) -> None:
    """Flip one bit a round: half the rounds go from file to file, half by size."""
    chance, files = random.Random(seed), contents(bundle)
    names, sizes = list(files), [len(content) for content in files.values()]
    for number in range(rounds):
        turn = names[number // 2 % len(names)]
        name = turn if number % 2 else chance.choices(names, sizes)[0]
        damaged = bytearray(files[name])
        place, bit = chance.randrange(len(damaged)), chance.randrange(8)
        damaged[place] ^= 1 << bit
        assert_found(bundle, name, bytes(damaged), f"{name}: bit {bit} of byte {place}")
    assert verify_bundle(bundle).whole


def cut_files(bundle: Path, rounds: int, seed: int) -> None:
    """Cut files anywhere, to nothing, by one byte, and remove them."""
    chance, files = random.Random(seed), contents(bundle)
    for name, content in files.items():
        sizes = {0, len(content) - 1}
        sizes |= {chance.randrange(len(content)) for _ in range(rounds)}
        for size in sorted(sizes):
            assert_found(bundle, name, content[:size], f"{name}: cut to {size}")
        assert_found(bundle, name, None, f"{name}: removed")
    assert verify_bundle(bundle).whole


def test_sixty_flipped_bits_are_found_and_named(bundle: Path) -> None:
    flip_bits(bundle, rounds=60, seed=5)


def test_every_file_cut_short_emptied_or_removed_is_found(bundle: Path) -> None:
    cut_files(bundle, rounds=0, seed=6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_flipped_bits_are_found_and_named(bundle: Path) -> None:
    flip_bits(bundle, rounds=1000, seed=7)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_hundred_cuts_are_found_and_named(bundle: Path) -> None:
    cut_files(bundle, rounds=20, seed=8)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_bit_of_the_manifests_first_lines_and_own_sum_counts(
    bundle: Path,
) -> None:
    content = (bundle / MANIFEST).read_bytes()
    for place in range(content.index(b'"generated_at"')):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            (bundle / MANIFEST).write_bytes(damaged)
            files = {finding.file for finding in verify_bundle(bundle).findings}
            assert MANIFEST in files, f"bit {bit} of byte {place}"


def reordered(content: bytes) -> bytes:
    record = json.loads(content)
    return json.dumps(dict(reversed(record.items())), indent=2).encode()


MANIFEST_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a blank more at the end": lambda c: c + b" ",
    "no line break at the end": lambda c: c.rstrip(b"\n"),
    "a blank less within": lambda c: c.replace(b'": ', b'":', 1),
    "written on one line": lambda c: orjson.dumps(orjson.loads(c)),
    "keys in another order": reordered,
    "an unknown key added": lambda c: c.replace(b"{", b'{"extra": 1,', 1),
    "a key that readers ignore renamed": lambda c: c.replace(b'"platform"', b'"qlat"'),
    "the own sum in capitals": lambda c: c.replace(own_sum(c), own_sum(c).upper()),
    "the own sum left out": lambda c: c.replace(own_sum(c), b""),
    "the own sum's key renamed": lambda c: c.replace(b"manifest_sha256", b"manifest"),
    "another own sum": lambda c: c.replace(own_sum(c), b"0" * 64),
    "an earlier schema claimed": lambda c: c.replace(b'"v4.1"', b'"v4.0"', 1),
    "a key that stands twice": lambda c: c.replace(b"{", b'{"chunk_count": 24,', 1),
    "a letter written as an escape": lambda c: c.replace(b'"docs"', b'"\\u0064ocs"', 1),
}


def own_sum(content: bytes) -> bytes:
    return str(orjson.loads(content)["manifest_sha256"]).encode()


@pytest.mark.parametrize("change", MANIFEST_CHANGES.values(), ids=MANIFEST_CHANGES)
def test_a_manifest_that_reads_the_same_and_differs_in_bytes_is_found(
    bundle: Path, change: Callable[[bytes], bytes]
) -> None:
    content = (bundle / MANIFEST).read_bytes()
    assert_found(bundle, MANIFEST, change(content), "manifest")


SUMS_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "other line order": lambda c: b"".join(reversed(c.splitlines(keepends=True))),
    "no line break at the end": lambda c: c.rstrip(b"\n"),
    "a line break more": lambda c: c + b"\n",
    "line ends of another system": lambda c: c.replace(b"\n", b"\r\n"),
    "digits in capitals": lambda c: c.upper(),
    "the mark of binary files": lambda c: c.replace(b"  ", b" *"),
    "a line less": lambda c: b"".join(c.splitlines(keepends=True)[:-1]),
}


@pytest.mark.parametrize("change", SUMS_CHANGES.values(), ids=SUMS_CHANGES)
def test_a_list_of_sums_that_says_the_same_and_differs_in_bytes_is_found(
    bundle: Path, change: Callable[[bytes], bytes]
) -> None:
    content = (bundle / SUMS).read_bytes()
    assert_found(bundle, SUMS, change(content), "sums")


def test_bytes_that_no_reader_looks_at_are_found(bundle: Path) -> None:
    """The padding of a .npy header, and what stands after an array or an index."""
    for name, content in contents(bundle).items():
        if name.endswith(".npy"):
            padding = content.index(b" \n", 10)
            tabbed = content[:padding] + b"\t" + content[padding + 1 :]
            (bundle / name).write_bytes(tabbed)
            array = np.load(bundle / name)
            (bundle / name).write_bytes(content)
            assert array.tobytes() == np.load(bundle / name).tobytes()
            assert_found(bundle, name, tabbed, f"{name}: padding")
        assert_found(bundle, name, content + b"\0", f"{name}: a byte more")


def test_damage_is_told_in_the_file_whose_sum_is_broken_with_row_or_line(
    bundle: Path,
) -> None:
    """Two files contradict each other: the sums say which one is wrong."""
    files = contents(bundle)

    def places(name: str, damaged: bytes) -> set[str]:
        (bundle / name).write_bytes(damaged)
        report = verify_bundle(bundle)
        (bundle / name).write_bytes(files[name])
        assert {finding.file for finding in report.findings} == {name}
        return {finding.place for finding in report.findings}

    vectors, index = (
        f"docs_all-miniLM-l6_{x}" for x in ("embeddings.npy", "index.faiss")
    )
    damaged = bytearray(files[vectors])
    row = (len(damaged) - 128) // 4 // 384 - 2
    damaged[128 + (row * 384 + 5) * 4] ^= 1
    assert f"row {row}" in places(vectors, bytes(damaged))

    damaged = bytearray(files[index])
    at = len(damaged) - 384 * 4 * 2 + 7
    damaged[at] ^= 1
    assert f"row {row}, byte {at}" in places(index, bytes(damaged))
    damaged = bytearray(files[index])
    damaged[2] ^= 4
    assert f"bytes 0-{len(damaged) - len(files[vectors]) + 128}" in places(
        index, bytes(damaged)
    )

    ids = "docs_ids.jsonl"
    lines = files[ids].splitlines(keepends=True)
    digest = orjson.loads(lines[3])["text_sha256"].encode()
    lines[3] = lines[3].replace(digest, digest[::-1])
    offset = sum(len(line) for line in lines[:3])
    assert f"line 4, byte {offset}" in places(ids, b"".join(lines))

    sparse = "docs_sparse.jsonl"
    lines = files[sparse].splitlines(keepends=True)
    value = str(orjson.loads(lines[6])["qdrant-bm25"]["values"][0]).encode()
    lines[6] = lines[6].replace(value, value[:-1] + b"0", 1)
    offset = sum(len(line) for line in lines[:6])
    assert f"line 7, byte {offset}" in places(sparse, b"".join(lines))


def test_the_command_ends_with_1_and_names_the_file(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = bytearray((bundle / MANIFEST).read_bytes())
    damaged[-3] ^= 1
    (bundle / MANIFEST).write_bytes(damaged)
    assert run_function(verify, [str(bundle)]) == 1
    assert f"damaged: {MANIFEST}" in capsys.readouterr().out
