"""Chunk files in: which are found, what is accepted, what is set aside and why."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from processor.ultimate_embedder.errors import InputError, UsageError
from processor.ultimate_embedder.intake.chunk_store import ChunkStore
from processor.ultimate_embedder.intake.chunks import find_collections
from processor.ultimate_embedder.records import point_id
from processor.ultimate_embedder.telemetry.events import ItemQuarantined
from processor.ultimate_embedder.testing import RecordingListener


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")


def build(root: Path, name: str = "c") -> tuple[ChunkStore, RecordingListener]:
    heard = RecordingListener()
    (folder,) = [f for f in find_collections(root) if f.name == name]
    return ChunkStore.build(folder, root / ".work", heard), heard


def reasons(store: ChunkStore) -> list[tuple[str, int | None, str]]:
    return [(q.file, q.index, q.reason) for q in store.conservation.quarantined]


def test_collections_are_first_level_folders_with_chunk_files_at_any_depth(
    tmp_path: Path,
) -> None:
    write(tmp_path / "b" / "deep" / "er" / "x_chunks.json", [{"text": "t"}])
    write(tmp_path / "a" / "chunks_1.json", [{"text": "t"}])
    write(tmp_path / "no" / "manifest.json", {"text": "not a chunk file"})
    write(tmp_path / "loose_chunks.json", [{"text": "in no collection"}])
    write(tmp_path / ".trash" / "x_chunks.json", [{"text": "hidden"}])
    assert [folder.name for folder in find_collections(tmp_path)] == ["a", "b"]


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist: .*nowhere"):
        find_collections(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        [{"text": "one"}, {"text": "two"}],
        {"chunks": [{"text": "one"}, {"text": "two"}]},
        {"data": [{"text": "one"}, {"text": "two"}]},
        {"records": [{"text": "one"}, {"text": "two"}]},
        {"items": [{"text": "one"}, {"text": "two"}]},
    ],
    ids=["list", "chunks", "data", "records", "items"],
)
def test_accepted_shapes_give_the_same_chunks(tmp_path: Path, content: Any) -> None:
    write(tmp_path / "c" / "f_chunks.json", content)
    store, _ = build(tmp_path)
    assert [chunk.text for chunk in store] == ["one", "two"]


def test_a_single_object_is_one_chunk(tmp_path: Path) -> None:
    write(tmp_path / "c" / "f_chunks.json", {"text": "alone"})
    store, _ = build(tmp_path)
    assert store.text(0) == "alone"


def test_an_object_whose_data_is_no_list_is_one_chunk(tmp_path: Path) -> None:
    write(tmp_path / "c" / "f_chunks.json", {"text": "alone", "data": 5})
    store, _ = build(tmp_path)
    assert store.text(0) == "alone"


def test_ids_follow_collection_subdir_filename_and_position(tmp_path: Path) -> None:
    inner = tmp_path / "c" / "docs" / "guide" / "x_chunks.json"
    write(
        inner,
        [
            {"text": "named", "metadata": {"filename": "page.md", "chunk_index": 7}},
            {"text": ""},
            {"text": "unnamed"},
            {"text": "without a name", "metadata": {"filename": ""}},
        ],
    )
    write(tmp_path / "c" / "top_chunks.json", [{"text": "at the root"}])
    store, _ = build(tmp_path)
    assert [chunk.chunk_id for chunk in store] == [
        "c:_root:top:chunk:0",
        "c:docs:guide/page.md:chunk:0",
        "c:docs:guide/x:chunk:2",
        "c:docs:guide/x:chunk:3",
    ]


def test_a_point_id_is_fixed_for_good() -> None:
    assert point_id("c:docs:a.md:chunk:0") == "986b02a8-a02d-5199-8176-c5b99f68347b"


def test_every_metadata_field_is_carried_and_ours_are_set(tmp_path: Path) -> None:
    given = {"filename": "p.md", "tags": ["x", 1.5, None], "collection": "other"}
    write(tmp_path / "c" / "d" / "p_chunks.json", [{"text": "t", "metadata": given}])
    store, _ = build(tmp_path)
    assert store.chunk(0).metadata == {
        "filename": "p.md",
        "tags": ["x", 1.5, None],
        "collection": "c",
        "source_subdir": "d",
        "source": "d/p.md",
        "original": {"collection": "other"},
    }


def test_what_is_ours_already_stays_and_what_was_original_is_kept(
    tmp_path: Path,
) -> None:
    given = {"collection": "c", "source": "elsewhere", "original": {"source": "first"}}
    write(tmp_path / "c" / "d" / "p_chunks.json", [{"text": "t", "metadata": given}])
    store, _ = build(tmp_path)
    assert store.chunk(0).metadata["original"] == {
        "source": "elsewhere",
        "original": {"source": "first"},
    }


def test_text_keeps_newlines_and_indentation(tmp_path: Path) -> None:
    text = "\n  def f():\r\n\treturn 'ä€😀'\n\n"
    write(tmp_path / "c" / "f_chunks.json", [{"text": text}])
    assert build(tmp_path)[0].text(0) == text


def test_rows_are_in_bytewise_order_of_subdir_filename_then_index(
    tmp_path: Path,
) -> None:
    for subdir, name in [("b", "z"), ("B", "a"), ("a", "ä"), ("a", "z"), ("a", "a10")]:
        entries = [{"text": f"{i}"} for i in range(11)]
        write(tmp_path / "c" / subdir / f"{name}_chunks.json", entries)
    store, _ = build(tmp_path)
    keys = [
        (c.source_subdir.encode(), c.filename.encode(), c.index)
        for c in (store.chunk(row) for row in range(len(store)))
    ]
    assert keys == sorted(keys)
    assert len(keys) == 55


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"metadata": {}}, "no_text"),
        ({"text": None}, "no_text"),
        ({"text": 5}, "wrong_type"),
        ({"text": " \n\t"}, "blank_text"),
        ("text", "wrong_type"),
        ({"text": "t", "metadata": []}, "wrong_type"),
        ({"text": "half \ud800 a pair"}, "lone_surrogate"),
        ({"text": "t", "metadata": {"score": float("nan")}}, "metadata_not_json"),
        ({"text": "t", "metadata": {"score": float("inf")}}, "metadata_not_json"),
        ({"text": "t", "metadata": {"n": 2**70}}, "metadata_not_json"),
        ({"text": "t", "metadata": {"k": "\udfff"}}, "metadata_not_json"),
    ],
)
def test_an_unusable_entry_is_set_aside_and_the_rest_goes_on(
    tmp_path: Path, entry: Any, reason: str
) -> None:
    write(tmp_path / "c" / "f_chunks.json", [{"text": "good"}, entry, {"text": "too"}])
    store, heard = build(tmp_path)
    assert [chunk.text for chunk in store] == ["good", "too"]
    assert reasons(store) == [("f_chunks.json", 1, reason)]
    assert store.conservation.chunks_read == 3
    assert store.conservation.adds_up
    assert len(heard.of(ItemQuarantined)) == 1


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"text": 5}, "text is a number"),
        ({"text": True}, "text is true or false"),
        ("text", "a string, not an object"),
        (None, "null, not an object"),
        ({"text": "t", "metadata": []}, "metadata is a list"),
        ({"text": "t", "metadata": {"score": float("nan")}}, "NanOrInfinity"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_in_the_words_of_json(
    tmp_path: Path, entry: Any, words: str
) -> None:
    write(tmp_path / "c" / "f_chunks.json", [{"text": "good"}, entry])
    _, heard = build(tmp_path)
    (aside,) = heard.of(ItemQuarantined)
    assert words in aside.detail


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"text": "cut', "not_json"),
        (b"", "empty_file"),
        (b"[]", "no_entries"),
        (b'{"chunks": []}', "no_entries"),
        (b" \n", "empty_file"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not_utf8"),
        (b'[{"text": "\xff"}]', "not_utf8"),
        (b'"just a string"', "wrong_type"),
        (b"[" * 100_000, "not_json"),
        (b'[{"text": "n", "metadata": {"n": ' + b"9" * 5000 + b"}}]", "not_json"),
    ],
    ids=lambda value: (
        value[:20].decode("latin-1") if isinstance(value, bytes) else value
    ),
)
def test_an_unusable_file_is_set_aside_among_good_ones(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    write(tmp_path / "c" / "bad_chunks.json", content)
    write(tmp_path / "c" / "good_chunks.json", [{"text": "good"}])
    store, _ = build(tmp_path)
    assert [chunk.text for chunk in store] == ["good"]
    assert reasons(store) == [("bad_chunks.json", None, reason)]
    assert store.conservation.files_read == 2
    assert store.conservation.adds_up


def test_a_number_too_large_for_json_readers_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "c" / "f_chunks.json"
    write(path, [{"text": "good"}])
    entry = '{"text": "t", "metadata": {"score": 1e999}}'
    path.write_text(f"[{entry}, {path.read_text()[1:-1]}]")
    store, _ = build(tmp_path)
    assert [chunk.text for chunk in store] == ["good"]
    assert reasons(store) == [("f_chunks.json", 0, "metadata_not_json")]


def test_the_second_of_two_equal_ids_is_set_aside(tmp_path: Path) -> None:
    named = {"filename": "same.md"}
    write(tmp_path / "c" / "a_chunks.json", [{"text": "first", "metadata": named}])
    write(tmp_path / "c" / "b_chunks.json", [{"text": "second", "metadata": named}])
    store, _ = build(tmp_path)
    assert [chunk.text for chunk in store] == ["first"]
    assert reasons(store) == [("b_chunks.json", 0, "duplicate_id")]


def test_a_collection_with_nothing_usable_fails_with_the_cure(tmp_path: Path) -> None:
    write(tmp_path / "c" / "a_chunks.json", [{"text": ""}])
    with pytest.raises(InputError, match="no usable chunk"):
        build(tmp_path)


def test_a_link_out_of_the_collection_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "secret.json", [{"text": "outside"}])
    write(tmp_path / "c" / "a_chunks.json", [{"text": "inside"}])
    (tmp_path / "c" / "b_chunks.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "c" / "loop_chunks.json").symlink_to("loop_chunks.json")
    (tmp_path / "c" / "around").symlink_to(tmp_path / "c", target_is_directory=True)
    store, _ = build(tmp_path)
    assert [chunk.text for chunk in store] == ["inside"]
    assert ("b_chunks.json", None, "outside_folder") in reasons(store)


@pytest.mark.parametrize("name", ["/srv/a.md", "./a.md", "x//a.md", "../a.md", "a/"])
def test_a_given_filename_is_kept_to_the_letter_after_its_folder(
    tmp_path: Path, name: str
) -> None:
    for inner in ("one", "two"):
        entry = {"text": inner, "metadata": {"filename": name}}
        write(tmp_path / "c" / "docs" / inner / "a_chunks.json", [entry])
    store, _ = build(tmp_path)
    assert [chunk.chunk_id for chunk in store] == [
        f"c:docs:one/{name}:chunk:0",
        f"c:docs:two/{name}:chunk:0",
    ]


def test_a_chunk_file_without_a_stem_has_a_filename(tmp_path: Path) -> None:
    write(tmp_path / "c" / "_chunks.json", [{"text": "t"}])
    assert build(tmp_path)[0].chunk(0).chunk_id == "c:_root:_chunks.json:chunk:0"


def test_a_collection_that_cannot_be_listed_is_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "c" / "locked" / "f_chunks.json", [{"text": "unseen"}])
    write(tmp_path / "lost+found" / "f_chunks.json", [{"text": "the file system's"}])
    write(tmp_path / "other" / "f_chunks.json", [{"text": "good"}])
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith(("locked", "lost+found")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [folder.name for folder in find_collections(tmp_path)] == ["c", "other"]
    assert len(build(tmp_path, "other")[0]) == 1
    with pytest.raises(InputError, match=r"'c' has no usable chunk \(set aside: 1\)"):
        build(tmp_path)


def test_a_file_whose_size_is_refused_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "c" / "a_chunks.json", [{"text": "good"}])
    write(tmp_path / "c" / "shut" / "b_chunks.json", [{"text": "not to be had"}])
    stat = Path.stat

    def refuse(path: Path, **how: Any) -> os.stat_result:
        if path.name == "b_chunks.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", refuse)
    (folder,) = find_collections(tmp_path)
    assert folder.total_bytes == len(json.dumps([{"text": "good"}]))
    store, _ = build(tmp_path)
    assert reasons(store) == [("shut/b_chunks.json", None, "unreadable")]


def test_a_folder_that_cannot_be_listed_is_set_aside_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "c" / "open" / "a_chunks.json", [{"text": "t"}])
    write(tmp_path / "c" / "shut" / "a_chunks.json", [{"text": "t"}])
    write(tmp_path / "lost+found" / "a_chunks.json", [{"text": "t"}])
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name in {"shut", "lost+found"}:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    store, _ = build(tmp_path)
    assert [folder.name for folder in find_collections(tmp_path)] == ["c"]
    assert reasons(store) == [("shut", None, "unreadable")]
    assert store.conservation.adds_up


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path) -> None:
    write(tmp_path / "c" / "a_chunks.json", b'\xef\xbb\xbf[{"text": "t"}]')
    assert build(tmp_path)[0].text(0) == "t"


def test_equal_texts_point_to_the_first_row(tmp_path: Path) -> None:
    texts = ["a", "b", "a", "c", "b"]
    write(tmp_path / "c" / "a_chunks.json", [{"text": text} for text in texts])
    assert build(tmp_path)[0].first_rows_of_texts().tolist() == [0, 1, 0, 3, 1]
