"""The page of one run, and of two: what it shows, and what it must never hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from report_parts import SECRET, Page, dense_run, full_manifest, setting

from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    ConservationCounts,
    FeatureToggles,
    QuarantinedEntry,
    RerankNotRun,
    SubdirCounts,
    TelemetrySection,
    TimelinePass,
)
from processor.ultimate_embedder.report import comparison_page, report_page

HOSTILE = "<script>alert('x')</script>\"'&</style></svg>"
OLD = Manifest.parse(
    orjson.dumps({"schema_version": "v4.0", "collection": "old", "chunk_count": 5})
)


def pages() -> list[Any]:
    full = full_manifest()
    return [
        pytest.param(report_page(full), id="full"),
        pytest.param(report_page(OLD), id="v4.0"),
        pytest.param(comparison_page(full, full), id="compared"),
        pytest.param(comparison_page(OLD, full), id="compared with v4.0"),
    ]


@pytest.mark.parametrize("page", pages())
def test_every_page_is_well_formed_and_needs_nothing_from_outside(page: str) -> None:
    read = Page(page)
    assert read.count("h1") == 1
    assert read.count("script") == 0
    for _, attributes in read.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "data:,") == "data:,"
    assert "url(" not in page
    assert "@import" not in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize("page", pages())
def test_every_picture_and_table_can_be_told_to_those_who_do_not_see_it(
    page: str,
) -> None:
    read = Page(page)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for picture in read.all("svg"):
        assert picture["role"] == "img"
        assert all(name in ids for name in picture["aria-labelledby"].split())
    assert read.count("svg") + 1 == read.count("title")
    assert read.count("svg") == read.count("desc")
    assert all(head["scope"] in ("col", "row") for head in read.all("th"))
    assert read.count("caption") == read.count("table")
    assert all(part["aria-labelledby"] in ids for part in read.all("section"))


@pytest.mark.parametrize(
    "shown",
    [
        "1,873",  # chunks
        "131,028",  # tokens by subdirectory: 90,011 + 41,017
        "7.00 MiB",  # the bundle
        "3 min 34 s",  # dense
        "617 ms",  # export
        "8.76 chunks/s",
        "1.17 × tokens",
        "37 of 16 to 64 rows, cuda:0, float16",
        "Median 47, longest 283 tokens.",
        "13 long chunks in 29 windows of at most 256 tokens.",
        "9.37 GiB of 12.00 GiB",
        "1.31 GiB",
        "97.3 %",
        "median 41 ms, 95 % within 78 ms; 31 queries, 1,550 candidates",
        "1,201",
        "made smaller 2 times",
        "1,876 chunks read, 1,873 embedded.",
        "page2.json",
        "--workers",
        "command line",
        "a processor",
    ],
)
def test_the_page_shows_what_the_manifest_says(shown: str) -> None:
    assert shown in Page(report_page(full_manifest())).text


def test_a_line_has_every_step_of_a_pass_within_its_picture() -> None:
    passed = TimelinePass(
        stage="dense", model="m", started=3.0, width=2.0, items=tuple(range(1, 61))
    )
    telemetry = TelemetrySection(timeline=(passed,))
    read = Page(report_page(full_manifest(telemetry=telemetry)))
    (line,) = read.all("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
    assert len(points) == 2 * 59  # the last slice is seldom whole
    assert points == sorted(points, key=lambda point: point[0])
    assert (points[0][0], points[-1][0]) == (0.0, 340.0)
    heights = [y for _, y in points[::2]]
    assert heights == sorted(heights, reverse=True)
    assert "at most 29.5 chunks a second" in read.text


@pytest.mark.parametrize("form", ["a loan", "nonsense"])
def test_loans_of_a_sparse_pass_are_drawn_where_they_are_loans(form: str) -> None:
    loan = dense_run().lease_events[0].model_dump() | {"model": "splade"}
    loan["peak_bytes"] = {"cuda:0": 5 * 2**30}
    told = {"lease_events": [loan] if form == "a loan" else [{"model": 3}, "x"]}
    run = (full_manifest().sparse_run or ())[0].model_copy(update={"statistics": told})
    text = Page(report_page(full_manifest(sparse_run=(run,)))).text
    assert ("5.00 GiB of 12.00 GiB" in text) == (form == "a loan")


def test_figures_of_quality_stand_with_their_intervals() -> None:
    manifest = full_manifest()
    text = Page(report_page(manifest)).text
    run = manifest.fusion_run
    assert run is not None
    assert run.quality_card is not None
    for stage in run.quality_card.stages:
        for name in ("ndcg_at_10", "mrr_at_10", "recall_at_10", "recall_at_100"):
            found = getattr(stage, name)
            assert f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})" in text
    gain = run.quality_card.differences[0].better_by
    assert f"{gain.value:+.3f}, p" in text


def leaves(value: Any) -> list[float | str]:
    """Return the figures and words of nested data."""
    if isinstance(value, dict):
        return [leaf for item in value.items() for leaf in leaves(list(item))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None else [value]


def test_no_figure_in_a_table_is_made_up() -> None:
    manifest = full_manifest()
    known = leaves(manifest.model_dump())
    figures = [leaf for leaf in known if isinstance(leaf, int | float)]
    figures += [leaf / 2**30 for leaf in figures]
    words = " ".join(leaf for leaf in known if isinstance(leaf, str))
    read = Page(report_page(manifest))
    told = [text for inner, text in read.words if inner in ("td", "dd")]
    assert len(told) > 40
    derived = {"131,028", "7.00 MiB", "3 min 36 s", "3"}  # sums of what is there
    for text in told:
        for number in re.findall(r"(?<![\w.:-])[-+]?[\d,]*\.?\d+", text):
            if text in derived or number in words:
                continue
            places = len(number.partition(".")[2])
            value = float(number.replace(",", ""))
            assert any(abs(value - known) <= 0.51 * 10**-places for known in figures), (
                f"{number} in {text!r}"
            )


def test_nothing_from_outside_becomes_markup() -> None:
    hostile = full_manifest(
        collection=HOSTILE,
        run_id=HOSTILE,
        generated_at=HOSTILE,
        warnings=(HOSTILE, HOSTILE * 50, "\ud800\x00\u202egpj"),
        source_subdirs={HOSTILE: SubdirCounts(chunks=1)},
        rerank_run=RerankNotRun(reason=HOSTILE, cure=HOSTILE),
        dense_run=(dense_run(model=HOSTILE, device=HOSTILE),),
        feature_toggles=FeatureToggles(
            enable_rerank=False,
            enable_sparse=False,
            sources={"enable_sparse": HOSTILE},
            provenance=(setting(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        ),
        conservation=ConservationCounts(
            files_read=1,
            chunks_read=1,
            embedded=1,
            quarantined=(QuarantinedEntry(file=HOSTILE, reason=HOSTILE),),
        ),
    )
    for page in (report_page(hostile), comparison_page(hostile, full_manifest())):
        read = Page(page)
        assert read.count("script") == 0
        assert read.count("style") == 1
        assert "<script" not in page
        assert "\u202e" not in page
        page.encode("utf-8")


def test_no_text_of_a_query_or_a_chunk_is_in_a_page() -> None:
    manifest = full_manifest()
    assert SECRET in str(manifest)
    assert SECRET not in report_page(manifest)
    assert SECRET not in comparison_page(manifest, manifest)


def test_sections_that_an_old_manifest_lacks_are_left_out_with_a_word() -> None:
    text = Page(report_page(OLD)).text
    assert "old" in text
    assert "This manifest lists none." in text
    assert "This manifest does not tell." in text
    assert "Throughput" not in text


def test_stages_that_are_off_are_named_with_the_layer_that_decided() -> None:
    toggles = FeatureToggles(
        enable_rerank=False,
        enable_sparse=True,
        sources={"enable_rerank": "environment"},
    )
    manifest = full_manifest(feature_toggles=toggles, rerank_run=None)
    text = Page(report_page(manifest)).text
    assert "Rerank: switched off by: environment." in text
    assert "Sparse vectors: switched off" not in text


def test_a_rerank_that_could_not_run_stands_with_its_cure() -> None:
    rerank = RerankNotRun(reason="There are no queries.", cure="Give --queries.")
    text = Page(report_page(full_manifest(rerank_run=rerank))).text
    assert "There are no queries." in text
    assert "Give --queries." in text


def test_a_thousand_entries_with_long_names_stay_below_half_a_megabyte() -> None:
    entries = tuple(
        QuarantinedEntry(file=f"{'f' * 240}{n}.json", index=n, reason="no_text")
        for n in range(5000)
    )
    kept = ConservationCounts(
        files_read=1, chunks_read=5001, embedded=1, quarantined=entries
    )
    page = report_page(full_manifest(conservation=kept))
    assert len(page.encode()) < 500_000
    assert "The first 1,000 of 5,000 entries" in page


def test_two_runs_are_told_apart_in_rates_quality_settings_and_warnings() -> None:
    toggles = FeatureToggles(
        enable_rerank=True,
        enable_sparse=True,
        provenance=(setting("workers", "7", "--workers", "command line"),),
    )
    second = full_manifest(
        chunk_count=2000,
        run_id="later",
        dense_run=(dense_run(chunks_per_second=17.52),),
        feature_toggles=toggles,
        warnings=("Something new.",),
    )
    text = Page(comparison_page(full_manifest(), second)).text
    assert "17.5 chunks" not in text
    assert "17.5 (+100.0 %)" in text
    assert "1,873 2,000 +6.8 %" in text
    assert "3 (command line) 7 (command line)" in text
    assert "second only: Something new." in text
    assert "first only: Set aside: 3." in text
    assert "fused, first" in text
    assert "fused, second" in text


def test_equal_runs_differ_in_nothing() -> None:
    text = Page(comparison_page(full_manifest(), full_manifest())).text
    assert "Settings that differ None." in text
    assert "Environment that differs None." in text
    assert "Warnings of one run alone None." in text


def test_a_v4_0_manifest_is_read_from_a_folder(tmp_path: Path) -> None:
    bundle = tmp_path / "old"
    bundle.mkdir()
    document = {"schema_version": "v4.0", "collection": "old", "chunk_count": 5}
    (bundle / "processing_summary.json").write_bytes(orjson.dumps(document))
    assert "old" in report_page(Manifest.read(bundle))
