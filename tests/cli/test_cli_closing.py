"""The closing tables hold the manifest's figures."""

from __future__ import annotations

from typing import Any

from processor.ultimate_embedder.cli.closing import closing_sheets
from processor.ultimate_embedder.cli.output import Sheet, plain_text
from processor.ultimate_embedder.config import GIB
from processor.ultimate_embedder.export.manifest import Manifest

FULL: dict[str, Any] = {
    "collection": "docs",
    "chunk_count": 1200,
    "conservation": {
        "files_read": 7,
        "chunks_read": 1203,
        "embedded": 1200,
        "quarantined": [
            {"file": f"{n}.json", "index": 0, "reason": "no_text"} for n in range(3)
        ],
        "truncated_chunks": 5,
    },
    "source_subdirs": {
        "a": {"chunks": 1000, "tokens": 90000},
        "b": {"chunks": 200, "tokens": 9000},
    },
    "dense_run": [
        {
            "model": "all-miniLM-l6",
            "hf_model_id": "x",
            "dimension": 384,
            "dtype": "bfloat16",
            "max_tokens": 256,
            "chunks": 1200,
            "tokens": 99000,
            "padding_ratio": 1.04,
            "seconds": 6.0,
            "device": "cuda:0",
            "batch_sizes": [4, 32, 8],
            "peak_bytes": 3 * GIB,
        }
    ],
    "sparse_run": [
        {
            "run_id": "r",
            "latency_ms": 1500.0,
            "sparse_model": "qdrant-bm25",
            "coverage": 0.995,
            "fallback_used": True,
            "fallback_reason": "no_model",
        }
    ],
    "fusion_run": {
        "method": "rrf",
        "legs": ["all-miniLM-l6", "qdrant-bm25"],
        "queries": 200,
        "seconds": 0.5,
        "quality": {"dense": {"nDCG@10": 0.5}, "fused": {"nDCG@10": 0.625}},
    },
    "rerank_run": {
        "status": "ran",
        "model": "judge",
        "queries": 32,
        "candidates": 100,
        "top_k": 20,
        "seconds": 16.0,
        "latency_ms_p50": 400.0,
        "latency_ms_p95": 800.0,
        "quality": {"reranked": {"nDCG@10": 0.75, "MRR@10": 0.5}},
    },
    "performance_baseline": {"export": {"seconds": 2.0, "items": 1200}},
}


def sheets(**changes: Any) -> dict[str, Sheet]:
    manifest = Manifest.model_validate(FULL | changes)
    return {sheet.title.split(",")[0]: sheet for sheet in closing_sheets([manifest])}


def cells(found: dict[str, Sheet], stage: str) -> dict[str, str]:
    sheet = found["Stages"]
    (row,) = [row for row in sheet.rows if row[1] == stage]
    details = {
        name: text
        for name, text in (found["Details"].rows if "Details" in found else ())
        if name.split()[1] == stage
    }
    return dict(zip(sheet.columns, row, strict=True)) | {
        "details": "".join(details.values())
    }


def test_the_counts_of_a_collection_are_shown() -> None:
    (row,) = sheets()["Collections"].rows
    assert row == ("docs", "7", "0", "1,203", "1,200", "3", "5", "99,000")


def test_a_file_that_was_set_aside_is_shown_apart_from_chunks() -> None:
    aside = [{"file": "bad.json", "reason": "not_json"}]
    counts = {"files_read": 2, "chunks_read": 1, "embedded": 1, "quarantined": aside}
    sheet = sheets(conservation=counts)["Collections"]
    shown = dict(zip(sheet.columns, sheet.rows[0], strict=True))
    assert (shown["files"], shown["files set aside"]) == ("2", "1")
    assert (shown["read"], shown["embedded"], shown["set aside"]) == ("1", "1", "0")


def test_the_dense_row_shows_throughput_batches_and_peak() -> None:
    row = cells(sheets(), "dense")
    assert (row["items"], row["per second"], row["time"]) == ("1,200", "200.0", "6 s")
    assert row["details"] == (
        "cuda:0, bfloat16; batches of 4 to 32; 99,000 tokens, padding 1.04x; peak 3 GiB"
    )


def test_chunks_that_repeat_a_text_are_told_and_are_no_speed() -> None:
    dense = FULL["dense_run"][0] | {"statistics": {"repeated_chunks": 300}}
    row = cells(sheets(dense_run=[dense]), "dense")
    assert (row["items"], row["per second"]) == ("1,200", "150.0")
    assert "900 texts, 300 chunks repeat another" in row["details"]
    dense["statistics"] = {"repeated_chunks": 1, "reused_chunks": 1}
    row = cells(sheets(dense_run=[dense]), "dense")
    assert "1,199 texts, 1 chunk repeats another; 1 chunk from" in row["details"]


def test_the_sparse_row_shows_coverage_and_its_fallback() -> None:
    row = cells(sheets(), "sparse")
    assert row["details"] == "coverage 99.5%; fallback: no_model"
    assert row["per second"] == "800.0"


def test_rerank_shows_its_latency() -> None:
    found = sheets()
    assert "p50 400.0 ms, p95 800.0 ms" in cells(found, "rerank")["details"]
    assert cells(found, "export")["per second"] == "600.0"


def test_a_rerank_that_could_not_run_says_why() -> None:
    found = sheets(
        rerank_run={"status": "not_run", "reason": "No weights", "cure": "Fetch them."}
    )
    row = cells(found, "rerank")
    assert row["details"] == "not run: No weights. Fetch them."
    assert (row["items"], row["time"], row["per second"]) == ("-", "-", "-")


def test_a_warning_that_rerank_did_not_run_is_not_repeated_in_the_details() -> None:
    missing = {"status": "not_run", "reason": "No weights.", "cure": "Fetch them."}
    warning = "rerank did not run: No weights. Fetch them."
    found = sheets(rerank_run=missing, warnings=[warning])
    assert cells(found, "rerank")["details"] == "not run, see the warning"
    assert found["Warnings"].rows == (("docs", warning),)


def test_stages_that_were_off_have_no_row() -> None:
    stages = sheets(sparse_run=None, rerank_run=None, fusion_run=None)["Stages"]
    assert [row[1] for row in stages.rows] == ["dense", "export"]


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.125, "high": value + 0.0625}


CARD: dict[str, Any] = {
    "seed": 0,
    "probes": 60,
    "kinds": {"docstring": 20, "heading": 1040},
    "stages": [
        {
            "stage": stage,
            "queries": queries,
            "depth": 100,
            "mrr_at_10": estimate(0.5),
            "ndcg_at_10": estimate(value),
            "recall_at_10": estimate(0.75),
        }
        for stage, queries, value in (("all-miniLM-l6", 60, 0.5), ("fused", 32, 0.625))
    ],
    "by_kind": [
        {
            "stage": stage,
            "kind": kind,
            "queries": queries,
            "depth": 100,
            "ndcg_at_10": estimate(0.25),
        }
        for stage in ("all-miniLM-l6", "fused")
        for kind, queries in (("docstring", 20), ("heading", 1040))
    ],
    "differences": [
        {
            "stage": "fused",
            "against": "all-miniLM-l6",
            "queries": 32,
            "better_by": estimate(0.125),
            "p_value": 0.0004,
            "exact": False,
        },
        {
            "stage": "reranked",
            "against": "fused",
            "queries": 32,
            "better_by": estimate(-0.0625),
            "p_value": 0.04,
            "exact": True,
        },
    ],
    "remarks": ["Something to know."],
}


def test_figures_of_one_kind_alone_are_not_shown_beside_those_of_all() -> None:
    card = {**CARD, "by_kind": CARD["by_kind"][::2]}
    found = sheets(fusion_run={**FULL["fusion_run"], "quality_card": card})
    stages = [row[1] for row in found["Search quality"].rows]
    assert stages == ["all-miniLM-l6", "fused"]


def with_card() -> dict[str, Sheet]:
    return sheets(fusion_run={**FULL["fusion_run"], "quality_card": CARD})


def test_quality_is_shown_stage_by_stage_with_its_interval() -> None:
    quality = with_card()["Search quality"]
    assert quality.columns == (
        *("collection", "stage", "probes", "nDCG@10", "95 %", "MRR@10", "R@10"),
    )
    assert quality.rows == (
        ("docs", "all-miniLM-l6", "60", "0.500", "0.38-0.56", "0.500", "0.750"),
        ("docs", "fused", "32", "0.625", "0.50-0.69", "0.500", "0.750"),
        ("docs", "fused, docstring", "20", "0.250", "0.12-0.31", "-", "-"),
        ("docs", "fused, heading", "1,040", "0.250", "0.12-0.31", "-", "-"),
    )


def test_gains_over_other_stages_are_shown_with_interval_and_p() -> None:
    gains = with_card()["Gain of a stage over another in nDCG@10"]
    assert gains.columns == (
        *("collection", "stage", "over", "probes", "gain", "95 %", "p"),
    )
    assert [row[1:] for row in gains.rows] == [
        ("fused", "all-miniLM-l6", "32", "+0.125", "+0.000 to +0.188", "<.001"),
        ("reranked", "fused", "32", "-0.062", "-0.188 to +0.000", "0.040"),
    ]


def test_what_the_probes_are_made_of_and_lack_is_shown() -> None:
    rows = dict(with_card()["Details"].rows)
    assert rows["docs probes"] == (
        "60 drawn: 20 docstring, 1,040 heading; Something to know."
    )


def test_a_collection_without_questions_says_why() -> None:
    card = {"seed": 0, "probes": 0, "remarks": ["No chunk asks."]}
    found = sheets(fusion_run={"method": "rrf", "quality_card": card}, rerank_run=None)
    assert dict(found["Details"].rows)["docs probes"] == "No chunk asks."
    assert "Search quality" not in found


def test_the_tables_of_quality_are_at_most_a_hundred_columns_wide() -> None:
    stage = "qdrant-minilm-attention"
    card = {
        **CARD,
        "stages": [{**CARD["stages"][0], "stage": stage}],
        "differences": [
            {**CARD["differences"][0], "stage": stage, "against": "all-miniLM-l6"}
        ],
    }
    found = sheets(
        collection="qdrant_ecosystem",
        fusion_run={**FULL["fusion_run"], "quality_card": card},
    )
    for title in ("Search quality", "Gain of a stage over another in nDCG@10"):
        lines = plain_text(found[title]).splitlines()
        assert max(map(len, lines)) <= 100, title


def test_a_manifest_with_means_alone_shows_those() -> None:
    quality = sheets()["Search quality"]
    assert [row[1:] for row in quality.rows] == [
        ("dense", "200", "0.500", "-"),
        ("fused", "200", "0.625", "-"),
        ("reranked", "32", "0.750", "0.500"),
    ]


def test_without_measures_there_is_no_quality_table() -> None:
    assert "Search quality" not in sheets(fusion_run=None, rerank_run=None)


def test_a_manifest_of_the_first_schema_is_shown_too() -> None:
    old = Manifest.model_validate({"collection": "old", "chunk_count": 3})
    titles = [sheet.title for sheet in closing_sheets([old])]
    assert titles == ["Collections"]


def test_warnings_are_a_table_of_their_own() -> None:
    assert "Warnings" not in sheets()
    found = sheets(warnings=["Three were set aside."])["Warnings"]
    assert found.rows == (("docs", "Three were set aside."),)


def test_no_manifests_give_no_tables() -> None:
    assert closing_sheets([]) == []
