"""Files mutated at random: a reader gives an answer or one clear line, nothing else."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from promises import Promise
from torture_parts import (
    COLLECTION,
    MANIFEST,
    Reference,
    reference,
    some_pages,
    write_pages,
)

from processor.ultimate_embedder.delivery.bundle_points import plan_upload, read_batches
from processor.ultimate_embedder.errors import BundleError, EmbedderError
from processor.ultimate_embedder.export.checksums import parse_sums
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.vectors import open_vectors
from processor.ultimate_embedder.intake.chunks import find_collections, read_chunk_file
from processor.ultimate_embedder.intake.queries import read_queries
from processor.ultimate_embedder.records import RankedList, SparseVector
from processor.ultimate_embedder.repair import repair_bundle
from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.verify import verify_bundle

NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 1e308, 0.5, "", "\0", "\ud800"),
    *("../..", "/etc/hostname", "x" * 5000, [], {}, [[]], [None], {"": None}),
)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(tmp_path_factory.mktemp("readers"), 2)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return the bytes after a few random changes, most of them small."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        place = chance.randrange(len(made) + 1)
        length = chance.choice((1, 1, 2, 8, 100))
        match chance.choice(("flip", "set", "drop", "insert", "copy", "cut", "swap")):
            case "flip" if place < len(made):
                made[place] ^= 1 << chance.randrange(8)
            case "set":
                made[place : place + length] = chance.randbytes(length)
            case "drop":
                del made[place : place + length]
            case "insert":
                made[place:place] = chance.choice(
                    (b"\0", b"\xff\xfe", b"[" * 3000, b'"', b"9" * 300, b"\n", b"{}")
                )
            case "copy":
                made[place:place] = made[place : place + 1000]
            case "cut" if chance.random() < 0.3:
                del made[place:]
            case _:
                other = chance.randrange(len(made) + 1)
                piece = made[other : other + length]
                made[place : place + length] = piece
    return bytes(made)


def mutated_json(document: Any, chance: random.Random) -> Any:
    """Return a document with one value replaced, removed, or put under another name."""
    if isinstance(document, dict) and document and chance.random() < 0.9:
        key = chance.choice(sorted(document))
        changed = dict(document)
        match chance.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[f"{key}x"] = changed.pop(key)
            case _:
                changed[key] = mutated_json(document[key], chance)
        return changed
    if isinstance(document, list) and document and chance.random() < 0.9:
        place = chance.randrange(len(document))
        changed_list = list(document)
        changed_list[place] = mutated_json(document[place], chance)
        return changed_list
    return chance.choice(NASTY)


def mutated_lines(content: bytes, chance: random.Random) -> bytes:
    """Mutate one JSON document of a file of one or many."""
    lines = content.splitlines() if content.count(b"\n") > 1 else [content]
    try:
        json.loads(content)
        lines = [content]
    except ValueError:
        pass
    place = chance.randrange(len(lines))
    try:
        changed = mutated_json(json.loads(lines[place]), chance)
    except ValueError:
        return mutated(content, chance)
    lines[place] = json.dumps(changed).encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + b"\n"


def tolerated(work: Callable[[], object], what: str) -> None:
    """Do the work; let pass what is told in one line of the project's own.

    Also what NumPy remarks on a header whose numbers end in L, as Python 2 wrote them:
    it reads them rightly.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*created on Python 2", UserWarning)
            work()
    except EmbedderError as error:
        assert "\n" not in error.message, what
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error


class Encoders:
    """Answers every query alike, so that a search reads all files."""

    def dense(self, text: str, key: str | None = None) -> np.ndarray:
        return np.full(384, 384**-0.5, dtype=np.float32)

    def sparse(self, text: str, key: str | None = None) -> SparseVector:
        return SparseVector(np.array([1, 5], np.uint32), np.ones(2, np.float32))

    def rerank(self, text: str, documents: list[str]) -> np.ndarray:
        return np.ones(len(documents), dtype=np.float32)

    def close(self) -> None:
        """Hold nothing."""


def search(bundle: Path) -> RankedList | None:
    with open_bundle(bundle, Encoders(), offline=True) as opened:
        opened.search("shard", top_k=3)
        opened.search("shard", top_k=3, filters={"source_subdir": "guide"})
    return None


def upload(bundle: Path) -> None:
    plan = plan_upload(bundle)
    for _ in read_batches(plan.points_file):
        pass


def readers(bundle: Path, work: Path) -> dict[str, Callable[[], object]]:
    return {
        "verify": lambda: verify_bundle(bundle),
        "manifest": lambda: Manifest.read(bundle),
        "search": lambda: search(bundle),
        "upload": lambda: upload(bundle),
        "repair": lambda: repair_bundle(shutil.copytree(bundle, work / "repaired")),
    }


@pytest.mark.parametrize("rounds", [25, pytest.param(3000, marks=pytest.mark.torture)])
def test_a_bundle_with_a_mutated_file_is_read_or_refused(
    light: Reference, tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "Any file of a bundle mutated at random, by bytes or as JSON: verify, search, "
        "upload, repair and the manifest's reader answer, or refuse it in one line"
    )
    bundle = Path(
        shutil.copytree(light.root / "reference" / COLLECTION, tmp_path / "docs")
    )
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    for number in promise.rounds(range(rounds)):
        chance = random.Random(number)
        path = bundle / MANIFEST if number % 4 == 0 else chance.choice(files)
        content = path.read_bytes()
        as_json = path.suffix in (".json", ".jsonl") and chance.random() < 0.6
        changed = (mutated_lines if as_json else mutated)(content, chance)
        path.write_bytes(changed)
        for name, work in readers(bundle, tmp_path).items():
            tolerated(work, f"round {number}: {name} of {path.name}")
            shutil.rmtree(tmp_path / "repaired", ignore_errors=True)
        if changed != content:
            assert not verify_bundle(bundle).whole, number
        path.write_bytes(content)
    assert verify_bundle(bundle).whole


@pytest.mark.parametrize("line", [b"", b"[]\n", b'{"payload": {"text": "a"}}\n'])
def test_a_line_that_is_no_point_is_refused_by_search(
    light: Reference, tmp_path: Path, line: bytes
) -> None:
    bundle = Path(
        shutil.copytree(light.root / "reference" / COLLECTION, tmp_path / "d")
    )
    points = bundle / f"{COLLECTION}_qdrant.jsonl"
    points.write_bytes(line * points.read_bytes().count(b"\n"))
    with pytest.raises(
        BundleError, match=r"docs_qdrant\.jsonl has no point in line \d"
    ):
        search(bundle)


@pytest.mark.parametrize("line", [b"", b"[]\n", b'{"chunk_id": [1]}\n'])
def test_a_line_without_an_id_is_refused_by_search(
    light: Reference, tmp_path: Path, line: bytes
) -> None:
    whole = light.root / "reference" / COLLECTION
    bundle = Path(shutil.copytree(whole, tmp_path / "docs"))
    ids = bundle / f"{COLLECTION}_ids.jsonl"
    ids.write_bytes(line * ids.read_bytes().count(b"\n"))
    with pytest.raises(BundleError, match=r"_ids\.jsonl"):
        search(bundle)


@pytest.mark.parametrize(
    "rounds", [300, pytest.param(50_000, marks=pytest.mark.torture)]
)
def test_mutated_input_is_read_or_set_aside(
    tmp_path: Path, rounds: int, promise: Promise
) -> None:
    promise.holds(
        "Chunk files, queries, sums and headers of arrays mutated at random: chunks "
        "are taken or set aside with a reason, the others refused in one line"
    )
    root = tmp_path / "chunked"
    write_pages(root, some_pages(1))
    (collection,) = find_collections(root)
    (file,) = collection.files
    queries, vectors = tmp_path / "queries.jsonl", tmp_path / "vectors.npy"
    np.save(vectors, np.eye(4, dtype=np.float32))
    seeds = {
        file: file.read_bytes(),
        queries: b'{"_id": "q1", "text": "shard"}\n{"_id": 2, "text": "index"}\n',
        vectors: vectors.read_bytes(),
    }
    sums = b"".join(b"%064x  docs_%d.npy\n" % (n, n) for n in range(3))
    for number in promise.rounds(range(rounds)):
        chance = random.Random(number)
        for path, content in seeds.items():
            as_json = path != vectors and chance.random() < 0.5
            path.write_bytes((mutated_lines if as_json else mutated)(content, chance))
        what = f"round {number}"
        for item in read_chunk_file(collection, file):
            assert item, what
        tolerated(lambda: read_queries(queries), f"{what}: queries")
        tolerated(lambda: open_vectors(vectors), f"{what}: vectors")
        tolerated(lambda chance=chance: parse_sums(mutated(sums, chance)), what)
