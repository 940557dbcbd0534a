"""A bundle's chunk ids and source subdirectories, counted again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_parts import COLLECTION, export_bundle, make_store

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.statistics import StatisticsCheck
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.intake.chunks import CollectionFolder, find_collections
from processor.ultimate_embedder.verify import Statistics, check_statistics
from processor.ultimate_embedder.verify.chunk_ids import ChunkIdCheck, places_of

IDS = f"{COLLECTION}_ids.jsonl"
POINTS = f"{COLLECTION}_qdrant.jsonl"
Change = Callable[[list[dict[str, Any]]], None]


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def in_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and give it the sum that fits."""
    path = bundle / "processing_summary.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    Manifest.model_validate(document).write(bundle)


def in_lines(path: Path, change: Change) -> None:
    rows = [
        json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]
    change(rows)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle of 23 chunks whose manifest states words as tokens."""
    made = export_bundle(tmp_path / "out")
    tokens = {"api": 0, "guide": 0}
    for chunk in make_store(23):
        tokens[chunk.source_subdir] += len(chunk.text.split())

    def state(document: dict[str, Any]) -> None:
        for name, figures in document["source_subdirs"].items():
            figures["tokens"] = tokens[name]

    in_manifest(made, state)
    return made


@pytest.fixture
def source(tmp_path: Path) -> CollectionFolder:
    """Return the chunk files that the bundle could have been made from."""
    for chunk in make_store(23):
        folder = tmp_path / "Chunked" / COLLECTION / chunk.source_subdir
        folder.mkdir(parents=True, exist_ok=True)
        entry = {"text": chunk.text, "metadata": {"filename": chunk.filename}}
        path = folder / f"{Path(chunk.filename).stem}_chunks.json"
        path.write_text(json.dumps([entry]), encoding="utf-8")
    (folder,) = find_collections(tmp_path / "Chunked")
    return folder


def told(statistics: Statistics, bundle: Path) -> str:
    return "\n".join(StatisticsCheck((statistics,), (bundle,)).errors)


def test_a_bundle_that_states_what_it_holds_is_sound(
    bundle: Path, source: CollectionFolder
) -> None:
    found = check_statistics(bundle, count_tokens=words, source=source)
    assert found.sound
    assert told(found, bundle) == ""
    assert (found.ids.ids, found.ids.points) == (23, 23)
    assert set(found.ids.vectors.values()) == {23}
    by_name = {subdir.name: subdir for subdir in found.subdirs}
    assert set(by_name) == {"api", "guide"}
    for subdir in by_name.values():
        assert subdir.chunks == subdir.read == subdir.stated_chunks > 0
        assert subdir.tokens == subdir.stated_tokens > 0


def _another_form(rows: list[dict[str, Any]]) -> None:
    rows[3]["chunk_id"] = "docs/api/page.md#3"


def _unknown_subdir(rows: list[dict[str, Any]]) -> None:
    rows[3]["chunk_id"] = rows[3]["chunk_id"].replace(":api:", ":ipa:")


def _twice(rows: list[dict[str, Any]]) -> None:
    rows[4] = rows[4] | {"chunk_id": rows[3]["chunk_id"]}


def _exchanged(rows: list[dict[str, Any]]) -> None:
    rows[3], rows[4] = rows[4], rows[3]


def _one_less(rows: list[dict[str, Any]]) -> None:
    del rows[-1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_another_form, "1 of another form"),
        (_unknown_subdir, "1 of another form"),
        (_twice, "1 repeated"),
        (_exchanged, "1 out of order"),
        (_one_less, "22 ids for 23 chunks"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_fault_of_the_ids_is_told(bundle: Path, change: Change, word: str) -> None:
    in_lines(bundle / IDS, change)
    found = check_statistics(bundle)
    assert not found.sound
    assert word in told(found, bundle)


def test_vectors_of_another_number_are_told(bundle: Path) -> None:
    path = next(bundle.glob("*_embeddings.npy"))
    np.save(path, np.load(path)[:-2])
    found = check_statistics(bundle)
    assert "21 rows of" in told(found, bundle)


def test_a_chunk_counted_to_another_subdirectory_is_told(bundle: Path) -> None:
    def move(document: dict[str, Any]) -> None:
        document["source_subdirs"]["api"]["chunks"] += 1
        document["source_subdirs"]["guide"]["chunks"] -= 1

    in_manifest(bundle, move)
    lines = told(check_statistics(bundle), bundle).splitlines()
    assert len(lines) == 2
    assert "'api': the manifest says 13 chunks, the points hold 12" in lines[0]
    assert all("--fresh" in line for line in lines)


def test_other_tokens_are_told_where_they_are_counted(bundle: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        document["source_subdirs"]["guide"]["tokens"] += 5

    in_manifest(bundle, add)
    assert check_statistics(bundle).sound
    line = told(check_statistics(bundle, count_tokens=words), bundle)
    assert "source_subdir 'guide': the manifest says" in line
    assert "tokens" in line


def test_a_point_under_another_id_or_subdirectory_is_told(bundle: Path) -> None:
    def other(rows: list[dict[str, Any]]) -> None:
        rows[0]["payload"]["metadata"]["source_subdir"] = "guide"

    in_lines(bundle / POINTS, other)
    line = told(check_statistics(bundle), bundle)
    assert "1 other than in the points" in line
    assert "'api'" in line


def test_a_subfolder_of_the_input_that_is_not_there_is_told(
    bundle: Path, source: CollectionFolder
) -> None:
    folder = source.path / "new"
    folder.mkdir()
    entries = [{"text": "Not in the bundle."}, {"text": " "}]
    (folder / "x_chunks.json").write_text(json.dumps(entries), encoding="utf-8")
    (again,) = find_collections(source.path.parent)
    found = check_statistics(bundle, source=again)
    line = told(found, bundle)
    assert "'new': the manifest says 0 chunks, the chunk files hold 1" in line


def test_a_subfolder_without_a_usable_chunk_and_a_repeated_id_are_no_fault(
    bundle: Path, source: CollectionFolder
) -> None:
    (source.path / "hollow").mkdir()
    (source.path / "hollow" / "x_chunks.json").write_text('[{"text": ""}]')
    file = source.files[0]
    (file.parent / f"z{file.name}").write_text(file.read_text())
    (again,) = find_collections(source.path.parent)
    assert check_statistics(bundle, source=again).sound


def test_a_chunk_set_aside_when_it_was_stored_is_not_missed(
    bundle: Path, source: CollectionFolder
) -> None:
    files = ["x_chunks.json", "api/deep/x_chunks.json"]
    for name in files:
        path = source.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([{"text": "Set aside."}]), encoding="utf-8")
    (again,) = find_collections(source.path.parent)
    assert not check_statistics(bundle, source=again).sound

    def say(document: dict[str, Any]) -> None:
        document["conservation"]["quarantined"] += [
            {"file": name, "index": 0, "reason": "metadata_not_json"} for name in files
        ]

    in_manifest(bundle, say)
    assert check_statistics(bundle, source=again).sound


def test_without_points_the_ids_and_vectors_are_still_counted(
    bundle: Path, source: CollectionFolder
) -> None:
    (bundle / POINTS).unlink()
    found = check_statistics(bundle, count_tokens=words, source=source)
    assert found.sound
    assert found.ids.points is None
    assert {subdir.tokens for subdir in found.subdirs} == {None}


def test_a_bundle_without_its_ids_file_is_one_error(bundle: Path) -> None:
    (bundle / IDS).unlink()
    with pytest.raises(BundleError, match=IDS):
        check_statistics(bundle)


@pytest.mark.parametrize(
    ("chunk_id", "places"),
    [
        ("docs:api:a.md:chunk:0", [(b"api", b"a.md", 0)]),
        ("docs:api:in/ner:chunk:1.md:chunk:12", [(b"api", b"in/ner:chunk:1.md", 12)]),
        ("docs:a:b:c.md:chunk:3", [(b"a", b"b:c.md", 3), (b"a:b", b"c.md", 3)]),
        ("other:api:a.md:chunk:0", []),
        ("api:a.md:chunk:0", []),
        ("docs:api:a.md:chunk:01", []),
        ("docs:api:a.md:chunk:-1", []),
        ("docs:api:a.md:chunk:", []),
        ("docs:api::chunk:1", []),
        ("docs:web:a.md:chunk:1", []),
        ("docs:api:a.md", []),
    ],
)
def test_an_id_names_subdirectory_file_and_position(
    chunk_id: str, places: list[tuple[bytes, bytes, int]]
) -> None:
    assert places_of(chunk_id, "docs", ("api", "a", "a:b")) == places
    assert places_of(chunk_id, "docs", ("a:b", "api", "a")) == places


def test_without_names_to_choose_from_a_subdirectory_ends_at_the_first_colon() -> None:
    assert places_of("docs:a:b:c.md:chunk:3", "docs") == [(b"a", b"b:c.md", 3)]
    assert places_of("docs::c.md:chunk:3", "docs") == []


def test_a_subdirectory_whose_name_begins_another_keeps_its_order() -> None:
    """`a` holds `b:x.md` and `z.md`, then `a:b` holds `y.md`."""
    ids = ["c:a:b:x.md:chunk:0", "c:a:z.md:chunk:0", "c:a:b:y.md:chunk:0"]
    check = ChunkIdCheck("c", ("a", "a:b"))
    assert [check.fault(one) for one in ids] == [None] * 3
    assert check.fault(ids[0]) is not None
    assert check.out_of_order == 1


def test_positions_are_ordered_as_numbers_and_names_as_bytes() -> None:
    check = ChunkIdCheck("c", ("a", "b"))
    ids = ["c:a:Z:chunk:2", "c:a:Z:chunk:10", "c:a:a:chunk:0", "c:b:A:chunk:0"]
    assert [check.fault(one) for one in ids] == [None] * 4
    assert check.fault("c:a:a:chunk:5") is not None


def test_an_id_follows_neither_itself_nor_an_earlier_one_past_a_malformed_one() -> None:
    check = ChunkIdCheck("c", ("a",))
    assert check.fault("c:a:b.md:chunk:1") is None
    assert "does not follow" in str(check.fault("c:a:b.md:chunk:1"))
    assert "not of the form" in str(check.fault("c/a/b.md#2"))
    assert "does not follow" in str(check.fault("c:a:b.md:chunk:0"))
    assert (check.malformed, check.out_of_order) == (1, 2)


def test_verify_names_the_line_of_an_id_of_another_form(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_lines(bundle / IDS, _another_form)
    assert run_function(verify, [str(bundle)]) == 1
    out = capsys.readouterr().out
    offset = sum(map(len, (bundle / IDS).read_bytes().splitlines(keepends=True)[:3]))
    place = f"{IDS}: line 4, byte {offset}"
    assert f"damaged: {place}: chunk_id is not of the form" in out
