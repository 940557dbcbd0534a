"""`upload_to_qdrant.py` as it is typed."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.upload import upload
from processor.ultimate_embedder.cli.upload_progress import PlainLines


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)


@pytest.mark.parametrize("option", ["--path", "--edge"])
def test_a_bundle_is_loaded_and_the_report_is_one_json_document(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    target = tmp_path / "target"
    code = run_function(upload, [str(bundle), option, str(target), "--json"])
    report = orjson.loads(capsys.readouterr().out)
    assert code == 0
    assert report["points"] == report["points_after"] == 60
    assert report["created"] is True
    assert report["compared"] >= 32
    assert report["vectors"]["qdrant-bm25"] == "sparse, modifier idf"


def test_the_report_for_people_counts_and_names_the_vectors(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(bundle), "--edge", str(tmp_path / "e"), "--collection", "mine"]
    assert run_function(upload, arguments) == 0
    out = capsys.readouterr().out
    assert "60 points sent" in out
    assert "60 there now" in out
    assert "  splade: sparse, no modifier\n" in out
    assert (tmp_path / "e" / "mine").is_dir()


def test_a_dry_run_touches_nothing(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    assert run_function(upload, [str(bundle), "--path", str(target), "--dry-run"]) == 0
    assert "Would send 60 points" in capsys.readouterr().out
    assert not target.exists()
    code = run_function(
        upload, [str(bundle), "--edge", str(target), "--dry-run", "--json"]
    )
    assert code == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["points"] == 60
    assert "HNSW" in told["tuning"]
    assert told["payload_indexes"]


def test_a_dry_run_into_the_local_mode_tells_of_no_index(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(bundle), "--path", str(tmp_path / "q"), "--dry-run"]
    assert run_function(upload, arguments) == 0
    out = capsys.readouterr().out
    assert "m=48" not in out
    assert "int8" not in out
    assert "payload indexes: " not in out
    assert "the local mode has no HNSW" in out
    assert run_function(upload, [*arguments, "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["payload_indexes"] == []


@pytest.mark.parametrize(
    "targets",
    [[], ["--path", "a", "--edge", "b"], ["--url", "http://x", "--path", "a"]],
)
def test_exactly_one_target_must_be_given(
    bundle: Path, capsys: pytest.CaptureFixture[str], targets: list[str]
) -> None:
    assert run_function(upload, [str(bundle), *targets]) == 2
    assert "exactly one of --url, --path and --edge" in capsys.readouterr().err


def test_a_file_where_the_folder_should_be_is_told_with_the_cure(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q").touch()
    assert run_function(upload, [str(bundle), "--path", str(tmp_path / "q")]) == 1
    err = capsys.readouterr().err
    assert "cannot be opened or written: File exists. Choose another folder" in err
    assert "Errno" not in err


def test_a_file_where_the_embedded_engine_should_write_is_told_with_the_cure(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e").touch()
    assert run_function(upload, [str(bundle), "--edge", str(tmp_path / "e")]) == 1
    err = capsys.readouterr().err
    assert "cannot be written" in err
    assert "Choose another folder, or mend its permissions." in err


def test_a_failed_delivery_is_exit_code_one_and_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q").touch()
    code = run_function(upload, [str(bundle), "--path", str(tmp_path / "q")])
    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_a_folder_that_is_no_bundle_is_bad_usage_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_function(upload, [str(tmp_path), "--path", str(tmp_path / "q")])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_progress_tells_rate_and_time_left_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = iter([0.0, 4.0, 10.0, 12.0, 20.0])
    lines = PlainLines(1000, clock=lambda: next(clock))
    for points in (200, 300, 100, 400):
        lines.advance(points)
    assert capsys.readouterr().err.splitlines() == [
        "50.0 %, 500 of 1,000 points, 50/s, 10 s left",
        "100.0 %, 1,000 of 1,000 points, 50/s, 0 s left",
    ]


def test_an_alias_in_a_local_folder_and_in_the_embedded_engine(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ["--path", str(tmp_path / "q"), "--alias", "live"]
    assert run_function(upload, [str(bundle), *path, "--collection", "one"]) == 0
    assert run_function(upload, [str(bundle), *path, "--collection", "two"]) == 0
    out = capsys.readouterr().out
    assert "'live' stands for 'two'; before, for 'one', which is still there." in out
    edge = ["--edge", str(tmp_path / "e"), "--alias", "live"]
    assert run_function(upload, [str(bundle), *edge]) == 2
    assert "no aliases" in capsys.readouterr().err


def test_a_dry_run_tells_tuning_names_indexes_and_steps(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", "http://127.0.0.1:9", "--dry-run", "--preset", "docs_v5_multi"]
    steps = ["--alias", "live", "--remove-stale", "--recreate"]
    assert run_function(upload, [str(bundle), *options, *steps]) == 0
    out = capsys.readouterr().out
    for words in (
        "bm25: sparse, modifier idf, of qdrant-bm25",
        "m=48 ef_construct=512 full_scan_threshold=50000",
        "int8 quantisation in RAM, quantile 0.99",
        "metadata.source_subdir, chunk_id, text",
        "'live' stands for it",
        "earlier bundle are removed",
        "removed first",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vector-name", "splade"], "names no vector"),
        (["--vector-name", "other=x"], "no vector 'other' to be named"),
        (["--vector-name", "splade=qdrant-bm25"], "2 vectors of the bundle would be"),
        (
            ["--vector-name=splade=a", "--vector-name=splade=b"],
            "Two --vector-name options",
        ),
        (["--transport", "pigeon"], "no transport"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    arguments = [str(bundle), "--url", "http://127.0.0.1:9", *options]
    assert run_function(upload, arguments) == 2
    assert words in capsys.readouterr().err
