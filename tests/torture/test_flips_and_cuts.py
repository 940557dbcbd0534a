"""Flipped bits and cut files of a bundle with every stage: verify finds each one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from promises import Promise
from torture_parts import COLLECTION, config_of, run_once, some_pages, write_pages

from processor.ultimate_embedder.verify import verify_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flips")
    write_pages(root / "chunked", some_pages(4))
    assert run_once(config_of(root)) == 0
    bundle = root / "out" / COLLECTION
    assert verify_bundle(bundle).whole
    return bundle


def files_of(bundle: Path) -> dict[str, bytes]:
    return {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }


def assert_found(bundle: Path, name: str, damaged: bytes, told: str) -> None:
    path = bundle / name
    content = path.read_bytes()
    assert damaged != content, told
    path.write_bytes(damaged)
    report = verify_bundle(bundle)
    path.write_bytes(content)
    assert not report.whole, told
    assert name in {finding.file for finding in report.findings}, told


@pytest.mark.parametrize("rounds", [30, pytest.param(1000, marks=pytest.mark.torture)])
def test_any_flipped_bit_is_found(bundle: Path, rounds: int, promise: Promise) -> None:
    promise.holds(
        "A bit flipped anywhere in any file of a bundle, manifest and sums included, "
        "half the rounds from file to file and half by size: verify finds and names it"
    )
    chance, files = random.Random(rounds), files_of(bundle)
    names, sizes = list(files), [len(content) for content in files.values()]
    for number in promise.rounds(range(rounds)):
        turn = names[number // 2 % len(names)]
        name = turn if number % 2 else chance.choices(names, sizes)[0]
        damaged = bytearray(files[name])
        place, bit = chance.randrange(len(damaged)), chance.randrange(8)
        damaged[place] ^= 1 << bit
        assert_found(bundle, name, bytes(damaged), f"{name}: bit {bit} of {place}")
    assert verify_bundle(bundle).whole


@pytest.mark.parametrize("rounds", [18, pytest.param(500, marks=pytest.mark.torture)])
def test_any_cut_is_found(bundle: Path, rounds: int, promise: Promise) -> None:
    promise.holds(
        "Any file of a bundle cut short, to nothing, by one byte or anywhere: verify "
        "finds and names it"
    )
    chance, files = random.Random(rounds), files_of(bundle)
    names = list(files)
    for number in promise.rounds(range(rounds)):
        name = names[number % len(names)]
        content = files[name]
        turn = number // len(names)
        anywhere = chance.randrange(len(content))
        size = {0: 0, 1: len(content) - 1}.get(turn, anywhere)
        assert_found(bundle, name, content[:size], f"{name}: cut to {size}")
    assert verify_bundle(bundle).whole
