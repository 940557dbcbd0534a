"""A folder of documents to a folder of chunk files, run after run."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from processor.ultimate_embedder.chunking import (
    discovery,
    formats,
    one_file,
    workers,
)
from processor.ultimate_embedder.chunking import folder as folder_module
from processor.ultimate_embedder.chunking.discovery import output_paths
from processor.ultimate_embedder.chunking.document import ChunkSettings
from processor.ultimate_embedder.chunking.folder import (
    CollectionReport,
    chunk_folder,
)
from processor.ultimate_embedder.chunking.one_file import ChunkJob
from processor.ultimate_embedder.chunking.state import STATE_FILE, State
from processor.ultimate_embedder.errors import InputError, OutputError, UsageError
from processor.ultimate_embedder.intake.chunks import find_collections, read_chunk_file
from processor.ultimate_embedder.records import Chunk
from processor.ultimate_embedder.telemetry import events as ev

FILES = {
    "docs/guide.md": "# Guide\n\nHow to begin.\n\n## Next\n\nThen this.\n",
    "docs/inner/notes.txt": "Some notes.\n",
    "docs/inner/tool.py": "def tool():\n    return 1\n",
    "code/lib.rs": "fn main() {}\n",
}


@pytest.fixture
def job(tmp_path: Path, model_folder: Path) -> ChunkJob:
    for name, text in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ChunkJob(
        input_dir=tmp_path / "in",
        output_dir=tmp_path / "out",
        settings=ChunkSettings("all-miniLM-l6", 256),
        tokenizer_path=model_folder,
        workers=1,
    )


def written(job: ChunkJob) -> dict[str, bytes]:
    return {
        path.relative_to(job.output_dir).as_posix(): path.read_bytes()
        for path in sorted(job.output_dir.rglob("*"))
        if path.is_file() and path.name != STATE_FILE
    }


def report(reports: list[CollectionReport], name: str) -> CollectionReport:
    return next(one for one in reports if one.name == name)


def test_the_tree_is_mirrored(job) -> None:
    reports = chunk_folder(job)
    assert list(written(job)) == [
        "code/lib_chunks.json",
        "docs/guide_chunks.json",
        "docs/inner/notes_chunks.json",
        "docs/inner/tool_chunks.json",
    ]
    docs = report(reports, "docs")
    assert (docs.documents, docs.chunked, docs.chunks) == (3, 3, 3)


def test_a_chunk_is_a_span_of_its_source_with_the_metadata_filters_use(job) -> None:
    chunk_folder(job)
    (record,) = json.loads(written(job)["docs/guide_chunks.json"])
    metadata = record["metadata"]
    source = FILES["docs/guide.md"]
    text = source[metadata["start_char"] : metadata["end_char"]]
    assert record["text"] == text == source.strip()
    digest = hashlib.sha256(text.encode()).hexdigest()
    expected = {
        "filename": "guide.md",
        "source_path": "docs/guide.md",
        "source_file": "docs/guide.md",
        "document_name": "guide",
        "file_extension": ".md",
        "collection_name": "docs",
        "chunk_index": 0,
        "section_path": ["Guide"],
        "hierarchy_path": "Guide",
        "heading_text": "Guide",
        "headings": ["Guide", "Next"],
        "char_count": len(text),
        "content_type": "prose_section",
        "content_digest": digest,
        "chunk_hash": digest[:16],
        "tokenizer": "all-miniLM-l6",
        "max_tokens": 256,
    }
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["content_flags"]["has_code_block"] is False
    tool = "class Tool:\n    def use(self): ...\n\n    after = 1\n"
    (job.input_dir / "docs" / "inner" / "tool.py").write_text(tool)
    chunk_folder(job)
    (code,) = json.loads(written(job)["docs/inner/tool_chunks.json"])
    assert code["metadata"]["language"] == "python"
    assert code["metadata"]["symbol"] == "Tool"
    assert code["metadata"]["headings"] == ["Tool", "use"]


def test_the_loader_reads_what_the_chunker_writes(job) -> None:
    chunk_folder(job)
    found = find_collections(job.output_dir)
    assert [one.name for one in found] == ["code", "docs"]
    chunks = [c for one in found for f in one.files for c in read_chunk_file(one, f)]
    assert len(chunks) == 4
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert {c.filename for c in chunks if isinstance(c, Chunk)} >= {"lib.rs"}


def test_processes_and_runs_give_the_same_bytes(job, monkeypatch) -> None:
    monkeypatch.setattr(folder_module, "SMALL_JOB_BYTES", 0)
    chunk_folder(job)
    first = written(job)
    chunk_folder(replace(job, workers=2, fresh=True))
    assert written(job) == first


def test_a_file_that_kills_its_worker_is_set_aside(job, monkeypatch) -> None:
    tasks = [(document, None) for document in _documents(job)]
    monkeypatch.setattr(workers, "_chunk", _die_on_notes)
    with workers.Processes(job, 2) as processes:
        outcomes = list(processes.outcomes(tasks))
        again = list(processes.outcomes(tasks[:1]))  # a pool that broke is replaced
    assert [one.source for one in again] == [tasks[0][0].path.as_posix()]
    assert again[0].entry is not None
    assert len(outcomes) == len(tasks)
    assert [o.source for o in outcomes if o.entry is None] == ["docs/inner/notes.txt"]
    assert [o.reason for o in outcomes if o.entry is None] == ["crashed"]


def test_files_given_to_a_pool_that_has_broken_are_not_lost(job) -> None:
    tasks = [(document, None) for document in _documents(job)]
    with workers.Processes(job, 2) as processes:
        with pytest.raises(BrokenProcessPool):
            processes._opened().submit(os._exit, 3).result()
        outcomes = list(processes.outcomes(tasks))
    assert len(outcomes) == len(tasks)
    assert all(outcome.entry is not None for outcome in outcomes)


def _documents(job: ChunkJob) -> list[discovery.Document]:
    found = discovery.find_collections(job.input_dir)
    return [document for one in found for document in one.documents]


def _die_on_notes(document, before):
    if document.path.name == "notes.txt":
        os._exit(3)
    return workers._chunker[0](document, before)


def test_only_changed_files_are_chunked_again(job) -> None:
    chunk_folder(job)
    before = {p: p.stat().st_mtime_ns for p in job.output_dir.rglob("*_chunks.json")}
    (job.input_dir / "docs" / "guide.md").write_text("# Other\n")
    docs = report(chunk_folder(job), "docs")
    assert (docs.chunked, docs.unchanged, docs.chunks) == (1, 2, 3)
    after = {p: p.stat().st_mtime_ns for p in job.output_dir.rglob("*_chunks.json")}
    changed = [path.name for path in after if after[path] != before[path]]
    assert changed == ["guide_chunks.json"]


def test_other_settings_fresh_or_a_missing_output_chunk_again(job) -> None:
    chunk_folder(job)
    other = replace(job, settings=ChunkSettings("all-miniLM-l6", 128))
    assert report(chunk_folder(other), "docs").chunked == 3
    assert report(chunk_folder(replace(other, fresh=True)), "docs").chunked == 3
    (job.output_dir / "docs" / "guide_chunks.json").unlink()
    assert report(chunk_folder(other), "docs").chunked == 1


def test_a_chunk_file_that_was_cut_short_is_made_anew(job) -> None:
    chunk_folder(job)
    whole = written(job)
    output = job.output_dir / "docs" / "guide_chunks.json"
    output.write_bytes(output.read_bytes()[:-1])
    assert report(chunk_folder(job), "docs").chunked == 1
    assert written(job) == whole


def test_chunk_files_of_deleted_sources_are_removed_and_no_others(job) -> None:
    chunk_folder(job)
    foreign = job.output_dir / "docs" / "foreign_chunks.json"
    foreign.write_text("[]")
    (job.input_dir / "docs" / "guide.md").unlink()
    (job.input_dir / "code" / "lib.rs").unlink()
    (job.input_dir / "code").rmdir()
    assert report(chunk_folder(job), "docs").removed == 1
    assert list(written(job)) == [
        "docs/foreign_chunks.json",
        "docs/inner/notes_chunks.json",
        "docs/inner/tool_chunks.json",
    ]


def _unowned(job: ChunkJob) -> list[str]:
    heard: list[ev.Event] = []
    chunk_folder(job, heard.append)
    messages = [event.message for event in heard if isinstance(event, ev.Warned)]
    return [message for message in messages if "of no source" in message]


def test_chunk_files_that_a_lost_state_owned_are_named_with_the_cure(job) -> None:
    assert _unowned(job) == []
    (job.output_dir / STATE_FILE).unlink()
    (job.input_dir / "docs" / "guide.md").unlink()
    (message,) = _unowned(job)
    assert "docs/guide_chunks.json" in message
    assert "delete" in message
    assert "notes_chunks.json" not in message
    assert _unowned(job) == []  # told once: the record is whole again


def test_chunk_files_of_a_run_that_was_killed_are_named_too(job, monkeypatch) -> None:
    chunk_folder(job)
    (job.input_dir / "docs" / "new.md").write_text("# New\n")

    class Killed(BaseException):
        """Ends the run where it stands, as SIGKILL does: nothing is saved."""

    def kill(*_: object) -> None:
        monkeypatch.setattr(State, "save", lambda *_, **__: None)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "_conclude", kill)
        with pytest.raises(Killed):
            chunk_folder(replace(job, collections=("docs",)))
    monkeypatch.undo()
    assert "docs/new_chunks.json" in written(job)
    (job.input_dir / "docs" / "new.md").unlink()
    assert _unowned(replace(job, collections=("code",))) == []
    (message,) = _unowned(job)
    assert "docs/new_chunks.json" in message


def test_the_state_is_saved_after_each_collection(job) -> None:
    states = []

    def look(event: ev.Event) -> None:
        if isinstance(event, ev.CollectionStarted) and event.collection == "docs":
            states.append(json.loads((job.output_dir / STATE_FILE).read_text()))

    chunk_folder(job, look)
    (state,) = states
    assert list(state["files"]) == ["code/lib.rs"]
    assert not state["whole"]  # the run may be killed in the next collection


def test_a_file_whose_reader_fails_does_not_end_the_run(job, monkeypatch) -> None:
    def fail(_: bytes) -> None:
        raise TypeError

    broken = replace(formats.FORMATS[".ipynb"], read=fail)
    monkeypatch.setattr(formats, "FORMATS", {**formats.FORMATS, ".ipynb": broken})
    (job.input_dir / "docs" / "a.ipynb").write_text("{}")
    heard: list[ev.Event] = []
    assert report(chunk_folder(job, heard.append), "docs").chunked == 3
    aside = {e.file: e.reason for e in heard if isinstance(e, ev.ItemQuarantined)}
    assert aside == {"docs/a.ipynb": "damaged"}


def test_a_run_over_some_collections_leaves_the_others_alone(job) -> None:
    chunk_folder(job)
    first = written(job)
    reports = chunk_folder(replace(job, collections=("code",)))
    assert [one.name for one in reports] == ["code"]
    assert written(job) == first
    assert report(chunk_folder(job), "docs").unchanged == 3


def test_a_file_that_becomes_unusable_loses_its_chunk_file(job) -> None:
    chunk_folder(job)
    (job.input_dir / "docs" / "guide.md").write_bytes(bytes(100))
    assert report(chunk_folder(job), "docs").quarantined == 1
    assert "docs/guide_chunks.json" not in written(job)


def test_files_that_would_collide_keep_their_extension(job) -> None:
    (job.input_dir / "docs" / "guide.py").write_text("x = 1\n")
    chunk_folder(job)
    assert "docs/guide.md_chunks.json" in written(job)
    (job.input_dir / "docs" / "guide.md").unlink()
    chunk_folder(job)
    names = list(written(job))
    assert "docs/guide_chunks.json" in names
    assert "docs/guide.md_chunks.json" not in names
    assert "docs/guide.py_chunks.json" not in names


@pytest.mark.parametrize(
    ("files", "outputs"),
    [
        (["a.md", "b.md"], ["a", "b"]),
        (["a.md", "a.py", "b.md"], ["a.md", "a.py", "b"]),
        (["A.md", "a.py"], ["A.md", "a.py"]),
        (["a.md", "a.py", "a.md.txt"], ["a.md", "a.py", "a.md.txt"]),
        (["README", "README.md"], ["README", "README.md"]),
    ],
)
def test_chunk_files_have_names_of_their_own(files, outputs) -> None:
    paths = output_paths([PurePosixPath(name) for name in files])
    assert [path.name for path in paths] == [f"{n}_chunks.json" for n in outputs]


def test_bad_files_are_set_aside_with_one_line_each_and_the_rest_goes_on(job) -> None:
    docs = job.input_dir / "docs"
    (docs / "picture.md").write_bytes(b"\x89PNG\r\n" + bytes(500))
    (docs / "empty.md").write_bytes(b"")
    (docs / "blank.txt").write_text(" \n\n")
    (docs / "bad.txt").write_bytes("naïve 東京 ".encode() + b"\xff.")
    (docs / "photo.png").write_bytes(b"x")
    (docs / "book.ipynb").write_text("{}")
    heard: list[ev.Event] = []
    one = report(chunk_folder(job, heard.append), "docs")
    assert (one.documents, one.chunked, one.empty, one.quarantined) == (8, 4, 2, 2)
    assert one.documents == one.chunked + one.empty + one.quarantined
    assert one.skipped == {".png": 1}
    aside = {e.file: e.reason for e in heard if isinstance(e, ev.ItemQuarantined)}
    assert aside == {
        "docs/picture.md": "binary",
        "docs/book.ipynb": "not_a_notebook",
    }
    warned = sorted(e.message for e in heard if isinstance(e, ev.Warned))
    assert [message.partition(":")[0] for message in warned] == [
        "bad.txt",
        "blank.txt",
        "empty.md",
    ]
    assert "U+FFFD" in warned[0]
    assert not any("naïve" in repr(event) for event in heard)


def test_a_collection_without_any_usable_document_has_failed(job) -> None:
    (job.input_dir / "void").mkdir()
    (job.input_dir / "void" / "a.md").write_text("")
    (job.input_dir / "images").mkdir()
    (job.input_dir / "images" / "a.png").write_bytes(b"x")
    reports = chunk_folder(job)
    assert {one.name: one.failed for one in reports} == {
        "code": False,
        "docs": False,
        "images": False,
        "void": True,
    }


def test_links_out_of_the_folder_are_refused_and_loops_end(job, tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("# Secret\n")
    docs = job.input_dir / "docs"
    (docs / "leak.md").symlink_to(outside / "secret.md")
    (docs / "leak").symlink_to(outside)
    (job.input_dir / "whole").symlink_to(outside)
    (docs / "loop").symlink_to(docs)
    (docs / "self.md").symlink_to("self.md")
    (docs / "alias.md").symlink_to("guide.md")
    heard: list[ev.Event] = []
    chunk_folder(job, heard.append)
    aside = {e.file: e.reason for e in heard if isinstance(e, ev.ItemQuarantined)}
    assert aside["docs/leak.md"] == aside["docs/leak"] == "outside_folder"
    assert aside["whole"] == "outside_folder"
    assert aside["docs/loop"] == "linked_folder"
    assert aside["docs/self.md"] in ("unreadable", "outside_folder")
    assert "docs/alias_chunks.json" in written(job)
    assert b"Secret" not in b"".join(written(job).values())


def test_hidden_folders_caches_and_node_modules_are_passed_over(job) -> None:
    for name in (".git", "__pycache__", "node_modules"):
        (job.input_dir / "docs" / name).mkdir()
        (job.input_dir / "docs" / name / "a.md").write_text("x")
        (job.input_dir / name).mkdir(exist_ok=True)
    reports = chunk_folder(job)
    assert [one.name for one in reports] == ["code", "docs"]
    assert report(reports, "docs").documents == 3


def test_a_name_that_is_not_utf8_is_set_aside(job) -> None:
    path = os.fsencode(job.input_dir / "docs") + b"/bad\xff.md"
    with open(path, "wb") as stream:  # noqa: PTH123 - a name no Path can print
        stream.write(b"text")
    heard: list[ev.Event] = []
    chunk_folder(job, heard.append)
    (aside,) = [e for e in heard if isinstance(e, ev.ItemQuarantined)]
    assert (aside.file, aside.reason) == ("docs/bad\\xff.md", "file_name_not_utf8")


def test_a_damaged_state_only_means_that_all_is_done_again(job) -> None:
    chunk_folder(job)
    first = written(job)
    (job.output_dir / STATE_FILE).write_text('{"files": {"a": 1}}')
    heard: list[ev.Event] = []
    assert report(chunk_folder(job, heard.append), "docs").chunked == 3
    assert any("damaged" in e.message for e in heard if isinstance(e, ev.Warned))
    assert written(job) == first


@pytest.mark.parametrize("output", ["../precious_chunks.json", "docs/precious.json"])
def test_a_state_may_not_name_files_elsewhere_or_of_another_kind(job, output) -> None:
    chunk_folder(job)
    victim = job.output_dir / output
    victim.write_text("keep")
    state = json.loads((job.output_dir / STATE_FILE).read_text())
    entry = state["files"]["docs/guide.md"] | {"output": output}
    state["files"]["docs/gone.md"] = entry
    (job.output_dir / STATE_FILE).write_text(json.dumps(state))
    chunk_folder(job)
    assert victim.read_text() == "keep"


def test_what_a_stopped_run_has_done_is_kept(job) -> None:
    def stop(event: ev.Event) -> None:
        if isinstance(event, ev.CollectionStarted) and event.collection == "docs":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chunk_folder(job, stop)
    assert list(written(job)) == ["code/lib_chunks.json"]
    reports = chunk_folder(job)
    assert report(reports, "code").unchanged == 1
    assert report(reports, "docs").chunked == 3


def test_a_full_disk_stops_the_run_and_leaves_no_half_file(job, monkeypatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        chunk_folder(job)
    assert written(job) == {}


def test_folders_that_cannot_be_used_are_refused_before_any_work(job, tmp_path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        chunk_folder(replace(job, input_dir=tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="Found: code, docs"):
        chunk_folder(replace(job, collections=("dosc",)))
    with pytest.raises(UsageError, match="lies in the input"):
        chunk_folder(replace(job, output_dir=job.input_dir / "docs" / "out"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        chunk_folder(replace(job, output_dir=blocked / "out"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="No document"):
        chunk_folder(replace(job, input_dir=empty))


def test_documents_outside_collections_are_told_of(job) -> None:
    (job.input_dir / "loose.md").write_text("# Loose\n")
    heard: list[ev.Event] = []
    chunk_folder(job, heard.append)
    assert any("there are 1 in" in e.message for e in _warnings(heard))


def test_a_stage_counts_what_it_made_and_not_what_it_found(job) -> None:
    first: list[ev.Event] = []
    before = chunk_folder(job, first.append)
    (job.input_dir / "docs" / "late.md").write_text("# Late\n\nOne more.\n")
    second: list[ev.Event] = []
    after = chunk_folder(job, second.append)
    assert _made(first) == {one.name: (one.chunks, one.tokens) for one in before}
    added = report(after, "docs").tokens - report(before, "docs").tokens
    assert _made(second) == {"code": (0, 0), "docs": (1, added)}


def _made(heard: list[ev.Event]) -> dict[str, tuple[int, int]]:
    return {
        event.collection: (event.items, event.tokens)
        for event in heard
        if isinstance(event, ev.StageFinished)
    }


def _warnings(heard: list[ev.Event]) -> list[ev.Warned]:
    return [event for event in heard if isinstance(event, ev.Warned)]


def test_a_file_over_the_size_bound_is_set_aside_unread(job) -> None:
    big = job.input_dir / "docs" / "big.md"
    with big.open("wb") as stream:
        stream.truncate(64 * 2**20 + 1)
    heard: list[ev.Event] = []
    chunk_folder(job, heard.append)
    reasons = [e.reason for e in heard if isinstance(e, ev.ItemQuarantined)]
    assert reasons == ["too_large"]


def test_a_chunk_file_too_large_for_the_loader_is_not_written(job, monkeypatch) -> None:
    monkeypatch.setattr(one_file, "MAX_CHUNK_FILE_BYTES", 100)
    heard: list[ev.Event] = []
    assert all(one.failed for one in chunk_folder(job, heard.append))
    reasons = {e.reason for e in heard if isinstance(e, ev.ItemQuarantined)}
    assert reasons == {"too_large"}
    assert written(job) == {}
