"""What is found wrong, or mended, before a batch is computed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_parts import Run, config_for, write_collection

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.sources import ModelLocation
from processor.ultimate_embedder.errors import (
    ModelNotAvailable,
    OutputError,
    RunStopped,
    UsageError,
)
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    CollectionStarted,
    Event,
    RunFinished,
    StageFinished,
    StageStarted,
    Warned,
)
from processor.ultimate_embedder.testing import (
    HashingModels,
    RecordingListener,
    hashing_parts,
)


@pytest.mark.parametrize("name", ["lock", "redact.key", "наб ор: 日本 %20'\""])
def test_a_collection_may_have_any_name_that_a_folder_can(
    run: Run, tmp_path: Path, name: str
) -> None:
    write_collection(tmp_path / "chunked", name, pages=2)
    outcome, _ = run(collections=(name,), redact_queries=True)
    (found,) = outcome.collections
    assert (found.name, found.error) == (name, None)
    assert (tmp_path / "out" / name / "SHA256SUMS").is_file()


@pytest.mark.parametrize(
    ("claimed", "warned"), [("my_docs", True), ("renamed", False), ("UKPLab", False)]
)
def test_chunks_of_the_folder_above_are_warned_of(
    tmp_path: Path, claimed: str, warned: bool
) -> None:
    chunked = tmp_path / "Chunked" / "my_docs"
    (chunked / "UKPLab").mkdir(parents=True)
    chunk = {"text": "Some words.", "metadata": {"collection_name": claimed}}
    (chunked / "UKPLab" / "a_chunks.json").write_text(json.dumps([chunk]))
    config = config_for(tmp_path, chunked_dir=chunked)
    told = (
        "chunks in 'UKPLab' say they belong to 'my_docs': is --chunked-dir one folder "
        "too deep?"
    )
    for act in (BatchRunner.plan, BatchRunner.run):
        heard = RecordingListener()
        act(BatchRunner(config, heard, "run-1", hashing_parts()))
        messages = [event.message for event in heard.of(Warned)]
        assert (told in messages) is warned
    manifest = Manifest.read(tmp_path / "out" / "UKPLab")
    assert (told in manifest.warnings) is warned


def test_a_folder_name_that_is_no_unicode_is_refused_at_once(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "chunked" / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a_chunks.json").write_text(json.dumps([{"text": "words"}]))
    with pytest.raises(UsageError, match=r"cannot be part of a file name"):
        run()
    outcome, _ = run(collections=("docs",))
    assert outcome.exit_code == 0


def test_a_model_key_that_no_file_can_carry_is_refused_at_once(run: Run) -> None:
    odd = replace(dense_model("all-miniLM-l6"), name="org/model")
    with pytest.raises(UsageError, match=r"model name 'org/model' cannot"):
        run(dense=(odd,))


def test_a_foreign_folder_in_a_bundles_place_is_seen_before_any_work(
    tmp_path: Path,
) -> None:
    for name in ("docs", "more"):
        write_collection(tmp_path / "chunked", name, pages=1)
    (tmp_path / "out" / "more").mkdir(parents=True)
    (tmp_path / "out" / "more" / "thesis.txt").write_text("years of work")
    heard = RecordingListener()
    runner = BatchRunner(config_for(tmp_path), heard, "run-1", hashing_parts())
    with pytest.raises(UsageError, match="is not a bundle"):
        runner.run()
    assert heard == []


def test_a_collection_named_twice_is_made_once(run: Run) -> None:
    outcome, heard = run(collections=("docs", "docs"))
    assert [one.name for one in outcome.collections] == ["docs"]
    assert len(heard.of(CollectionStarted)) == 1


def test_a_working_folder_that_cannot_be_made_is_one_clear_line(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".work").write_text("a file")
    with pytest.raises(OutputError, match=r"Writing .*\.work.* failed"):
        run()


def test_fresh_stops_when_old_work_cannot_be_removed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(OutputError, match="Not allowed to write"):
            run(resume=False)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (RunStopped("gone"), 3),
        (UsageError("wrong"), 2),
        (KeyboardInterrupt(), 3),
        (ZeroDivisionError(), 1),
    ],
)
def test_the_end_of_a_run_is_told_with_the_exit_code_it_has(
    tmp_path: Path, error: BaseException, exit_code: int
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=1)
    heard = RecordingListener()

    def listen(event: Event) -> None:
        heard(event)
        if isinstance(event, BatchFinished):
            raise error

    runner = BatchRunner(config_for(tmp_path), listen, "run-1", hashing_parts())
    with pytest.raises(type(error)):
        runner.run()
    assert [event.exit_code for event in heard.of(RunFinished)] == [exit_code]


def test_what_export_took_holds_no_work_of_the_sparse_stage(run: Run) -> None:
    _, heard = run()
    marks = [
        (type(event), event.stage)
        for event in heard
        if isinstance(event, StageStarted | StageFinished)
    ]
    begun = marks.index((StageStarted, "export"))
    assert (StageFinished, "sparse") in marks[:begun]
    assert (StageStarted, "sparse") not in marks[begun:]


class WithoutMiniLM(HashingModels):
    """Has every model but the one whose attention is wanted."""

    def locate(self, config: ModelConfig) -> ModelLocation:
        if config.name == "all-miniLM-l6":
            raise ModelNotAvailable("MiniLM is not here.", cure="Fetch it.")
        return super().locate(config)


def test_an_attention_model_that_is_missing_gives_way_to_metadata(
    tmp_path: Path,
) -> None:
    entries = [
        {
            "text": f"# How part{part} is built\n\nIt says in ten words or more what "
            f"happens to part number {part} of it.",
            "metadata": {
                "sparse_features": {
                    "term_weights": [{"term": f"part{part}", "weight": 1.0}]
                }
            },
        }
        for part in range(3)
    ]
    (tmp_path / "chunked" / "docs").mkdir(parents=True)
    (tmp_path / "chunked" / "docs" / "a_chunks.json").write_text(json.dumps(entries))
    other = replace(dense_model("all-miniLM-l6"), name="other")
    heard = RecordingListener()
    parts = replace(hashing_parts(), models=WithoutMiniLM(offline=True))
    config = config_for(tmp_path, dense=(other,))
    (found,) = BatchRunner(config, heard, "run-1", parts).run().collections
    assert found.error is None
    assert found.manifest is not None
    assert found.manifest.sparse_run is not None
    assert [run.fallback_used for run in found.manifest.sparse_run] == [False, True]
    # terms from metadata may hold the question, which no text can be taken out of
    assert found.manifest.fusion_run is not None
    judged = ["other", "qdrant-bm25", "fused", "reranked"]
    assert list(found.manifest.fusion_run.quality) == judged
    assert any("MiniLM is not here" in event.message for event in heard.of(Warned))
