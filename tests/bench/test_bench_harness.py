"""Benchmarks: turns in alternation, medians, ratios, aims, and the page of all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import corpus, gpu_speed, harness, run_all
from benchmarks.chart import svg
from benchmarks.harness import Aim, Row, Table

TABLE = Table(
    "bm25",
    "BM25 <vectors>",
    "texts",
    harness.rows_of({"ours": [1.0, 2.0, 9.0], "theirs": [8.0, 4.0, 6.0]}, 12, "theirs"),
    reference="theirs",
    aims=(Aim("ours", "theirs", at_least=3.0), Aim("ours", "absent", at_least=1.0)),
)


def test_contenders_take_turns_and_a_warm_up_does_not_count() -> None:
    ticks: Iterator[float] = iter(range(100))
    called: list[str] = []
    seconds = harness.take_turns(
        {"a": lambda: called.append("a"), "b": lambda: called.append("b")},
        2,
        clock=lambda: float(next(ticks)),
    )
    assert called == ["a", "b"] * 3
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_rows_hold_medians_rates_and_how_many_times_as_fast() -> None:
    assert TABLE.rows == (Row("ours", 2.0, 6.0, 3.0), Row("theirs", 6.0, 2.0, 1.0))


@pytest.mark.parametrize(
    ("aim", "holds"),
    [
        (Aim("ours", "theirs", at_least=3.0), True),
        (Aim("ours", "theirs", at_least=3.1), False),
        (Aim("ours", at_most_seconds=2.0), True),
        (Aim("ours", at_most_seconds=1.9), False),
        (Aim("ours", "theirs", spread=0.0), True),
        (Aim("theirs", "ours", spread=2.1), True),
        (Aim("theirs", "ours", spread=1.9), False),
    ],
)
def test_an_aim_says_whether_it_is_held(aim: Aim, holds: bool) -> None:
    found = aim.measured({row.name: row for row in TABLE.rows})
    assert found is not None
    assert found[1] is holds


def test_an_aim_on_a_contender_that_did_not_run_says_nothing() -> None:
    assert [aim.than for aim, _, _ in harness.outcomes(TABLE)] == ["theirs"]


def test_a_table_comes_back_as_it_was_stored() -> None:
    stored = json.loads(json.dumps(harness.record(TABLE)))
    assert harness.table_of(stored) == TABLE
    assert stored["machine"]["cores"] >= 1


def test_the_page_has_every_table_also_one_with_rows_alone(tmp_path: Path) -> None:
    foreign = {
        "benchmark": "dense",
        "machine": "two cores",
        "date": "2026-11-21",
        "rows": [{"name": "ours", "median_seconds": 1, "per_second": 9, "ratio": 5.25}],
    }
    run_all.write(tmp_path, [harness.record(TABLE), foreign], 90.0)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| ours | 2.00 s | 6 | 3 |" in text
    assert "3.00 x theirs, at least 3 x: held" in text
    assert "### dense" in text
    assert "| ours | 1.00 s | 9 | 5.25 |" in text
    assert len(json.loads((tmp_path / "benchmarks.json").read_text())) == 2


def test_the_picture_is_xml_with_a_bar_for_each_ratio() -> None:
    root = ElementTree.fromstring(svg([TABLE]))  # noqa: S314 - our own
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 2
    assert "BM25 <vectors>" in "".join(root.itertext())


def test_texts_come_from_a_folder_when_one_is_given(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Title\n\nSome words of a page.\n")
    (tmp_path / "code.py").write_text("def answer():\n    return 42\n")
    found = corpus.chunks(tmp_path, 10)
    assert len(found) == 2
    assert any("Some words" in text for text in found)


def test_every_benchmark_that_is_run_exists() -> None:
    there = {path.stem for path in run_all.HERE.glob("*.py")}
    assert {*run_all.SCRIPTS, run_all.ON_A_GPU} <= there


def test_the_comparison_on_a_gpu_runs_small_on_a_cpu() -> None:
    name = gpu_speed.TINY[0]
    shape = gpu_speed.TINY_SHAPES[name]
    lengths = gpu_speed.lengths_of(6, 40, mixed=True)
    assert len(set(lengths)) > 1
    table = gpu_speed.run(name, shape, "cpu", turns=1, lengths=lengths)
    assert table.benchmark == f"gpu-{name}-mixed"
    assert [row.name for row in table.rows] == [gpu_speed.OURS, gpu_speed.REFERENCE]
    lowest = float(table.remark.rsplit(" ", 1)[1].rstrip("."))
    assert lowest > 0.999  # both sides embedded the same texts with the same weights
