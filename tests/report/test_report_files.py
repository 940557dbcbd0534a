"""The report's file: written with a run, on demand, and never at the run's cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from report_parts import full_manifest

from processor.ultimate_embedder.batch_runner import RunOutcome
from processor.ultimate_embedder.cli.embed_run import run_embedding
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.report import report
from processor.ultimate_embedder.cli.run_reports import write_reports
from processor.ultimate_embedder.report import report_path, write_report
from processor.ultimate_embedder.run.parts import CollectionOutcome
from processor.ultimate_embedder.run.plan import RunPlan
from processor.ultimate_embedder.settings import resolve
from processor.ultimate_embedder.telemetry.events import Warned
from processor.ultimate_embedder.testing import RecordingListener


@pytest.fixture
def made(tmp_path: Path) -> CollectionOutcome:
    """Return a bundle with a manifest, as a run would."""
    bundle = tmp_path / "docs"
    bundle.mkdir()
    manifest = full_manifest().write(bundle)
    return CollectionOutcome(name="docs", bundle=bundle, manifest=manifest)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_report_stands_beside_the_bundle_and_leaves_it_alone(
    made: CollectionOutcome, tmp_path: Path
) -> None:
    assert made.bundle is not None
    before = (made.bundle / "processing_summary.json").read_bytes()
    heard = RecordingListener()
    assert write_reports([made], heard) == [tmp_path / "docs_report.html"]
    assert heard == []
    assert names(tmp_path) == ["docs", "docs_report.html"]
    assert (made.bundle / "processing_summary.json").read_bytes() == before


def test_a_report_of_the_same_manifest_stays_and_one_of_another_is_replaced(
    made: CollectionOutcome,
) -> None:
    assert made.bundle is not None
    assert made.manifest is not None
    path = write_report(made.bundle, made.manifest)
    first = path.stat().st_ino
    assert write_report(made.bundle, made.manifest).stat().st_ino == first
    later = full_manifest(run_id="later").write(made.bundle)
    write_report(made.bundle, later)
    assert "later" in path.read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_one_warning(
    made: CollectionOutcome, tmp_path: Path
) -> None:
    (tmp_path / "docs_report.html").mkdir()
    heard = RecordingListener()
    assert write_reports([made], heard) == []
    (event,) = heard
    assert isinstance(event, Warned)
    assert event.message.startswith("docs_report.html was not written: ")
    assert "\n" not in event.message
    assert names(tmp_path) == ["docs", "docs_report.html"]


def test_a_full_disk_is_one_warning_and_leaves_no_half_page(
    made: CollectionOutcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> int:
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    heard = RecordingListener()
    assert write_reports([made], heard) == []
    (event,) = heard
    assert isinstance(event, Warned)
    assert "No space left on device" in event.message
    assert names(tmp_path) == ["docs"]


def test_a_collection_that_failed_has_no_report(tmp_path: Path) -> None:
    failed = CollectionOutcome(name="docs", error=ValueError("no"))
    assert write_reports([failed], RecordingListener()) == []
    assert names(tmp_path) == []


def test_the_command_rebuilds_the_page_that_the_run_wrote(
    made: CollectionOutcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.bundle is not None
    assert made.manifest is not None
    path = write_report(made.bundle, made.manifest)
    written = path.read_bytes()
    path.unlink()
    assert run_function(report, [str(made.bundle)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path == report_path(made.bundle)
    assert path.read_bytes() == written


def test_the_command_compares_two_bundles(
    made: CollectionOutcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(made.bundle)
    assert run_function(report, [bundle, bundle]) == 0
    assert (tmp_path / "docs_compared.html").is_file()
    there = tmp_path / "elsewhere.html"
    assert run_function(report, [bundle, bundle, "--output", str(there)]) == 0
    assert "two runs" in there.read_text(encoding="utf-8")
    capsys.readouterr()


@pytest.mark.parametrize("name", ["none", "."])
def test_what_is_no_bundle_is_told_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(report, [str(tmp_path / name)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_with_a_cure(
    made: CollectionOutcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = str(tmp_path / "none" / "page.html")
    assert run_function(report, [str(made.bundle), "--output", there]) == 2
    assert "--output" in capsys.readouterr().err


@dataclass
class FinishedRunner:
    """A runner whose work is done already."""

    collection: CollectionOutcome

    def plan(self) -> RunPlan:
        return RunPlan(collections=())

    def run(self) -> RunOutcome:
        return RunOutcome(exit_code=0, collections=(self.collection,))


@pytest.mark.parametrize("taken", [False, True], ids=["written", "not to be written"])
def test_a_run_ends_well_with_its_page_and_without(
    made: CollectionOutcome,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    taken: bool,
) -> None:
    (tmp_path / "Chunked").mkdir()
    path = tmp_path / "docs_report.html"
    if taken:
        path.mkdir()
    settings = resolve(
        {
            "chunked_dir": (tmp_path / "Chunked", "--chunked-dir"),
            "output_dir": (tmp_path, "--output-dir"),
        },
        directory=tmp_path,
        environment={},
        kaggle_root=tmp_path / "none",
    )
    code = run_embedding(
        settings,
        style="plain",
        dry_run=False,
        resume="again",
        make_runner=lambda *_: FinishedRunner(replace(made, up_to_date=True)),
    )
    told = capsys.readouterr().err
    assert code == 0
    assert path.is_file() != taken
    assert ("docs_report.html was not written" in told) == taken
    assert (f"report: {path}" in told) != taken
