"""A run between its header and its closing tables, with a fake batch runner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from processor.ultimate_embedder.batch_runner import RunOutcome
from processor.ultimate_embedder.cli.embed_run import MakeRunner, run_embedding
from processor.ultimate_embedder.cli.output import Format
from processor.ultimate_embedder.cli.plan_sheet import on_top_of_passes
from processor.ultimate_embedder.config import GIB, PipelineConfig
from processor.ultimate_embedder.errors import InputError, UsageError
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import StagePerformance
from processor.ultimate_embedder.run.parts import CollectionOutcome
from processor.ultimate_embedder.run.plan import CollectionPlan, ModelPlan, RunPlan
from processor.ultimate_embedder.settings import Settings, resolve
from processor.ultimate_embedder.telemetry.events import (
    CollectionFinished,
    Emit,
    RunFinished,
    RunStarted,
)

PLAN = RunPlan(
    collections=(
        CollectionPlan(
            name="docs",
            chunks=1000,
            chunks_aside=2,
            files_aside=1,
            models=(
                ModelPlan(
                    model="all-miniLM-l6",
                    tokens=140_000,
                    padded_tokens=150_000,
                    windows=12,
                    window_tokens=2880,
                    truncated_chunks=3,
                    batches=40,
                    estimated_bytes=GIB // 2,
                    expected_seconds=125.0,
                ),
            ),
        ),
    )
)


@dataclass
class FakeRunner:
    """Does nothing, says what the real one says, and has one good collection."""

    config: PipelineConfig
    emit: Emit
    run_id: str
    outcome: RunOutcome

    def plan(self) -> RunPlan:
        return PLAN

    def run(self) -> RunOutcome:
        self.emit(RunStarted(run_id=self.run_id, collections=("docs",), settings={}))
        for one in self.outcome.collections:
            error = str(one.error) if one.error else None
            self.emit(
                CollectionFinished(
                    collection=one.name, chunks=3, seconds=1.0, error=error
                )
            )
        code = self.outcome.exit_code
        self.emit(RunFinished(run_id=self.run_id, exit_code=code, seconds=1.0))
        return self.outcome


GOOD = CollectionOutcome(
    name="docs",
    bundle=Path("out/docs"),
    manifest=Manifest(collection="docs", chunk_count=3, warnings=("Mind this.",)),
)
BAD = CollectionOutcome(name="bad", error=InputError("bad has no usable chunk."))


def fake(exit_code: int, *collections: CollectionOutcome) -> MakeRunner:
    outcome = RunOutcome(exit_code=exit_code, collections=collections)

    def make(config: PipelineConfig, emit: Emit, run_id: str) -> FakeRunner:
        return FakeRunner(config, emit, run_id, outcome)

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "Chunked").mkdir()
    typed: Mapping[str, tuple[object, str]] = {
        "chunked_dir": (tmp_path / "Chunked", "--chunked-dir"),
        "output_dir": (tmp_path / "out", "--output-dir"),
    }
    return resolve(
        typed, directory=tmp_path, environment={}, kaggle_root=tmp_path / "none"
    )


def run(
    settings: Settings, make: MakeRunner, *, style: Format = "plain", dry: bool = False
) -> int:
    return run_embedding(
        settings, style=style, dry_run=dry, resume="do it again", make_runner=make
    )


def test_the_exit_code_is_that_of_the_outcome(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, fake(0, GOOD)) == 0
    assert run(settings, fake(1, GOOD, BAD)) == 1
    capsys.readouterr()


def test_a_failed_collection_is_told_beside_the_good_one(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings, fake(1, GOOD, BAD))
    out, err = capsys.readouterr()
    assert "docs: out/docs" in out
    assert "Mind this." in out
    assert err.splitlines()[-1] == "error: bad: bad has no usable chunk."
    assert "resume with" not in err


def test_a_reason_that_the_log_just_told_is_not_repeated(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, fake(1, BAD)) == 1
    err = capsys.readouterr().err
    assert err.count("bad has no usable chunk.") == 1
    assert " ERROR   bad: failed. " in err


def test_a_bundle_that_was_left_as_it_is_shows_figures_of_an_earlier_run(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert GOOD.manifest is not None
    export = StagePerformance(seconds=2.0, items=3)
    manifest = GOOD.manifest.model_copy(
        update={"performance_baseline": {"export": export}}
    )
    made = replace(GOOD, manifest=manifest)
    for outcome, title in (
        (made, "Stages"),
        (replace(made, up_to_date=True), "Stages, as of the run that made the bundle"),
    ):
        run(settings, fake(0, outcome))
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("Stages")] == [title]


def test_a_stopped_run_tells_the_command_that_resumes_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, fake(3, GOOD)) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "resume with: do it again"


def test_plain_output_holds_no_control_characters(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings, fake(0, GOOD))
    for stream in capsys.readouterr():
        assert all(char == "\n" or ord(char) >= 32 for char in stream)


def test_json_gives_one_document_and_lines_of_objects(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings, fake(1, GOOD, BAD), style="json")
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["exit_code"] == 1
    assert [one["name"] for one in document["collections"]] == ["docs", "bad"]
    assert [one["chunks"] for one in document["collections"]] == [3, None]
    assert document["collections"][1]["error"] == "bad has no usable chunk."
    events = [json.loads(line) for line in err.splitlines()]
    assert {event["run_id"] for event in events if "run_id" in event} == {
        document["run_id"]
    }


def test_a_dry_run_shows_the_plan_and_makes_no_folder(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, fake(0), dry=True) == 0
    out = capsys.readouterr().out
    assert "Expected time of the dense passes: 2 min 5 s; on top of that" in out
    rows = [" ".join(line.split()) for line in out.splitlines() if "  docs" in line]
    assert rows == [
        "docs 1,000 2 1",
        "docs all-miniLM-l6 140,000 150,000 12 3 40 0.5 GiB 2 min 5 s",
    ]
    assert not settings.pipeline.output_dir.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "ranking up to 200 probes a collection, reranking 32 of them with 50 "),
        ({"enable_rerank": False}, "; on top of that ranking up to 200 probes a "),
        ({"queries": Path("q.jsonl")}, "reranking the queries with 50 candidates"),
        ({"probes": False}, ""),
    ],
    ids=["probes reranked", "rerank off", "queries", "probes off"],
)
def test_a_plan_says_what_its_time_leaves_out(
    settings: Settings, changes: dict[str, object], words: str
) -> None:
    config = replace(settings.pipeline, **changes)
    told = on_top_of_passes(config)
    assert words in told
    assert bool(told) == bool(words)
    assert ("rerank" in told) == ("rerank" in words)


def test_a_dry_run_writes_no_metrics(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.prom"
    reporting = replace(settings.reporting, metrics_textfile=path)
    run(replace(settings, reporting=reporting), fake(0), dry=True)
    capsys.readouterr()
    assert not path.exists()


def test_a_plan_as_json_is_one_document(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings, fake(0), style="json", dry=True)
    out, err = capsys.readouterr()
    assert err == ""
    (collection,) = json.loads(out)["collections"]
    assert collection["models"][0]["expected_seconds"] == 125.0


def test_remarks_on_the_settings_are_warnings(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run(replace(settings, notes=("EMBEDDER_X changes nothing.",)), fake(0, GOOD))
    assert "WARNING EMBEDDER_X changes nothing." in capsys.readouterr().err


@pytest.mark.parametrize("key", ["chunked_dir", "queries", "baseline"])
def test_a_path_that_is_not_there_is_named_with_its_option(
    settings: Settings, key: str, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    config = replace(settings.pipeline, **{key: missing})
    with pytest.raises(UsageError) as caught:
        run(replace(settings, pipeline=config), fake(0))
    assert str(missing) in str(caught.value)
    assert f"--{key.replace('_', '-')}" in str(caught.value)


def test_an_output_folder_that_cannot_be_is_refused_before_the_run(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    config = replace(settings.pipeline, output_dir=tmp_path / "file" / "out")
    with pytest.raises(UsageError, match="cannot be written"):
        run(replace(settings, pipeline=config), fake(0))
