"""Corpora through the main job to figures, with models that need no weights."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from evaluation_parts import (
    RELEVANT,
    HashingQueries,
    config_for,
    corpora,
    write_beir,
    write_lines,
    write_qrels,
)

from processor.ultimate_embedder.errors import InputError, ModelNotAvailable, UsageError
from processor.ultimate_embedder.evaluation.documents import (
    DocumentRanking,
    documents_of,
)
from processor.ultimate_embedder.evaluation.evaluate import evaluate_existing
from processor.ultimate_embedder.evaluation.judged_bundle import (
    EvaluationChoices,
    JudgedSet,
)
from processor.ultimate_embedder.evaluation.measures import MEASURES, measure
from processor.ultimate_embedder.evaluation.ranking import draw_queries
from processor.ultimate_embedder.evaluation.report import Evaluation
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.records import Float32Array, Query
from processor.ultimate_embedder.retrieval.fusion import FusionConfig
from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts

LEGS = [
    "dense:all-miniLM-l6",
    "sparse:qdrant-bm25",
    "sparse:qdrant-minilm-attention",
]


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Evaluation, JudgedSet]:
    """One small set, judged whole; the work folder, the result, and its rankings."""
    root = tmp_path_factory.mktemp("judged")
    write_beir(root / "data" / "zoo")
    kept: list[JudgedSet] = []
    found = corpora(root / "data", root / "work").evaluate(kept.append)
    return root / "work" / "whole" / "bundles" / "zoo", found, kept[0]


def test_every_stage_is_judged_over_the_queries_with_relevant_documents(
    done: tuple[Path, Evaluation, JudgedSet],
) -> None:
    _, found, _ = done
    (report,) = found.sets
    assert (report.name, report.treatment) == ("zoo", "whole")
    assert (report.documents, report.chunks, report.queries) == (12, 12, 5)
    assert [one.stage for one in report.all_stages.stages] == [*LEGS, "fused"]
    assert report.reranked is not None
    assert [one.stage for one in report.reranked.stages] == [
        *LEGS,
        "fused",
        "reranked",
    ]
    for stage in report.reranked.stages:
        assert stage.queries == 5
        assert tuple(stage.measures) == MEASURES
    assert report.notes == ("Queries without a relevant document, left out: 1.",)


def test_figures_are_the_means_over_the_rankings(
    done: tuple[Path, Evaluation, JudgedSet],
) -> None:
    _, found, kept = done
    for stage in found.sets[0].all_stages.stages:
        lists = kept.rankings[stage.stage]
        values = [measure(lists[query].names, RELEVANT[query]) for query in RELEVANT]
        for place, name in enumerate(MEASURES):
            mean = sum(row[place] for row in values) / len(values)
            estimate = stage.measures[name]
            assert estimate.value == pytest.approx(mean)
            assert estimate.low <= estimate.value <= estimate.high


def test_rankings_are_those_of_search(
    done: tuple[Path, Evaluation, JudgedSet],
) -> None:
    bundle, _, kept = done
    with open_bundle(bundle, HashingQueries()) as opened:
        for query_id in ("q1", "q4"):
            text = {"q1": "which animal builds dams of wood"}.get(
                query_id, "what lifts beams to the upper floors"
            )
            hits = opened.search(text, stage="fused", top_k=12)
            names = [hit.metadata["filename"] for hit in hits]
            assert list(kept.rankings["fused"][query_id].names) == names


def test_each_stage_is_compared_with_each(
    done: tuple[Path, Evaluation, JudgedSet],
) -> None:
    table = done[1].sets[0].all_stages
    assert len(table.comparisons) == 6
    fused, best = table.figures("fused"), table.best_leg()
    assert fused is not None
    assert best is not None
    leg = table.figures(best)
    compared = table.compared("fused", best)
    assert leg is not None
    assert compared is not None
    difference = fused.measures["nDCG@10"].value - leg.measures["nDCG@10"].value
    assert compared.better_by == pytest.approx(difference)
    turned = table.compared(best, "fused")
    assert turned is not None
    assert turned.better_by == pytest.approx(-difference)
    assert turned.p_value == compared.p_value


def test_the_card_of_the_bundle_is_weighed_against_the_judgements(
    done: tuple[Path, Evaluation, JudgedSet],
) -> None:
    (report,) = done[1].sets
    assert report.card is not None
    assert report.card.probes == 12  # each title asks
    assert set(LEGS) <= set(report.card.card)
    assert report.card.sure_pairs <= report.card.pairs
    run = Manifest.read(done[0]).fusion_run
    assert run is not None
    assert run.quality_card is not None
    on_same_probes = run.quality_card.difference("reranked", "fused")
    assert on_same_probes is not None
    pairs = {
        (one, other): report.card.card[one] - report.card.card[other]
        for one, other in combinations([*LEGS, "fused"], 2)
    }
    pairs["reranked", "fused"] = on_same_probes.better_by.value
    agreed = counted = 0
    for (one, other), better_by in pairs.items():
        judged = next(
            found.better_by
            for table in (report.all_stages, report.reranked)
            if table and (found := table.compared(one, other))
        )
        counted += judged != 0
        agreed += better_by * judged > 0
    assert report.card.pairs == counted
    assert report.card.agreed == agreed


def test_a_second_run_in_the_same_work_folder_gives_the_same(
    done: tuple[Path, Evaluation, JudgedSet],
) -> None:
    bundle, found, _ = done
    work_dir = bundle.parents[2]
    before = (bundle / "zoo_all-miniLM-l6_embeddings.npy").read_bytes()
    again = corpora(work_dir.parent / "data", work_dir).evaluate(lambda _: None)
    assert again == found
    assert (bundle / "zoo_all-miniLM-l6_embeddings.npy").read_bytes() == before


def test_a_document_counts_where_its_best_chunk_stands(tmp_path: Path) -> None:
    data = write_beir(tmp_path / "zoo", repeat=60)
    kept: list[JudgedSet] = []
    found = corpora(data, tmp_path / "work", treatments=("whole", "chunked")).evaluate(
        kept.append
    )
    whole, chunked = found.sets
    assert (whole.treatment, chunked.treatment) == ("whole", "chunked")
    assert whole.chunks == whole.documents == chunked.documents == 12
    assert chunked.chunks > 24
    bundle = tmp_path / "work" / "chunked" / "bundles" / "zoo"
    with open_bundle(bundle, HashingQueries()) as opened:
        names = [opened.metadata(row)["filename"] for row in range(len(opened))]
        for query_id, text in (("q2", "who carries salt through the desert"),):
            rows = opened.rankings(text, len(opened)).lists["fused"].rows.tolist()
            best_first = list(dict.fromkeys(names[row] for row in rows))
            ranking = kept[1].rankings["fused"][query_id]
            assert list(ranking.names) == best_first
            assert len(ranking) == 12


def test_only_drawn_queries_are_reranked_and_all_stages_judged_over_them(
    tmp_path: Path,
) -> None:
    data = write_beir(tmp_path / "zoo")
    choices = EvaluationChoices(rerank_queries=2, rerank_depth=3)
    kept: list[JudgedSet] = []
    found = corpora(data, tmp_path / "work", choices=choices).evaluate(kept.append)
    (report,) = found.sets
    assert report.reranked is not None
    assert {one.queries for one in report.reranked.stages} == {2}
    reranked, fused = (kept[0].rankings[stage] for stage in ("reranked", "fused"))
    assert len(reranked) == 2
    for query_id, ranking in reranked.items():
        before = fused[query_id].names
        assert set(ranking.names[:3]) == set(before[:3])
        assert ranking.names[3:] == before[3:]
        assert list(ranking.scores) == sorted(ranking.scores, reverse=True)


def test_fewer_drawn_queries_are_a_part_of_more() -> None:
    queries = [Query(str(number), "x") for number in range(50)]
    few, more = draw_queries(queries, 5), draw_queries(queries[::-1], 20)
    assert len(few) == 5
    assert few < more
    assert draw_queries(queries, 0) == frozenset()
    assert len(draw_queries(queries, -1)) == 50


def test_means_over_sets_stand_beside_the_sets(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_beir(tmp_path / "data" / name)
    found = corpora(tmp_path / "data", tmp_path / "work").evaluate(lambda _: None)
    (mean,) = found.means
    assert mean.sets == ("one", "two")
    for stage in mean.all_stages.stages:
        of_sets = [report.all_stages.figures(stage.stage) for report in found.sets]
        values = [one.measures["nDCG@10"].value for one in of_sets if one]
        assert stage.measures["nDCG@10"].value == pytest.approx(sum(values) / 2)
        assert stage.queries == 10
    assert found.card_agreement is not None
    assert found.card_agreement.pairs == sum(
        report.card.pairs for report in found.sets if report.card
    )


def test_a_set_that_fails_is_told_and_the_next_goes_on(tmp_path: Path) -> None:
    write_beir(tmp_path / "data" / "good")
    hollow = write_beir(tmp_path / "data" / "hollow")
    write_lines(hollow / "corpus.jsonl", [{"_id": "animal/camel", "text": " "}])
    found = corpora(tmp_path / "data", tmp_path / "work").evaluate(lambda _: None)
    assert [report.name for report in found.sets] == ["good"]
    assert [failed.name for failed in found.failed] == ["hollow"]
    assert found.failed[0].error


def test_judgements_of_documents_that_are_not_there_are_counted(
    tmp_path: Path,
) -> None:
    data = write_beir(tmp_path / "zoo")
    judged = {**RELEVANT, "q1": {**RELEVANT["q1"], "animal/unicorn": 1}}
    write_qrels(data / "qrels" / "test.tsv", judged)
    write_lines(data / "corpus.jsonl", [*corpus(data), {"_id": "blank", "text": ""}])
    (report,) = corpora(data, tmp_path / "work").evaluate(lambda _: None).sets
    assert (
        "Judged documents that are not in the bundle: 1 of 9, e.g. 'animal/unicorn'. "
        "They count as not found." in report.notes
    )
    assert "Documents without text, left out: 1 of 13." in report.notes


def corpus(data: Path) -> list[dict[str, str]]:
    lines = (data / "corpus.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_bundle_is_judged_by_files_with_sources_chunks_or_file_names(
    done: tuple[Path, Evaluation, JudgedSet], tmp_path: Path
) -> None:
    bundle, found, _ = done
    with open_bundle(bundle, HashingQueries()) as opened:
        chunk_of = {
            opened.metadata(row)["filename"]: chunk_id
            for row, chunk_id in enumerate(opened.chunk_ids())
        }
        queries = bundle.parents[3] / "data" / "zoo" / "queries.jsonl"
        chunks = {
            query: {chunk_of[name]: gain for name, gain in judged.items()}
            for query, judged in RELEVANT.items()
        }
        for unit, judged in (("source", RELEVANT), ("chunk_id", chunks)):
            qrels = write_qrels(tmp_path / f"{unit}.tsv", judged)
            ours = evaluate_existing(
                opened, queries, qrels, EvaluationChoices(), silent, lambda _: None
            )
            (report,) = ours.sets
            assert report.unit == unit
            assert report.all_stages == found.sets[0].all_stages
        other = write_qrels(tmp_path / "other.tsv", {"q1": {"nothing of this": 1}})
        with pytest.raises(InputError, match=r"No judged .* \(judged: 1\)"):
            evaluate_existing(
                opened, queries, other, EvaluationChoices(), silent, lambda _: None
            )


def test_sources_in_subfolders_and_bare_file_names_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "chunked" / "docs" / "a:b"
    folder.mkdir(parents=True)
    chunks = [{"text": f"words number {n}", "metadata": {}} for n in range(2)]
    (folder / "page.md_chunks.json").write_text(json.dumps(chunks), "utf-8")
    from processor.ultimate_embedder.batch_runner import BatchRunner

    config = config_for(
        chunked_dir=tmp_path / "chunked", output_dir=tmp_path / "out", probes=False
    )
    BatchRunner(config, silent, "run", hashing_parts()).run()
    with open_bundle(tmp_path / "out" / "docs", HashingQueries()) as opened:
        by_source = documents_of(opened, {"q": {"a:b/page.md": 1}})
        by_name = documents_of(opened, {"q": {"page.md": 1}})
    assert (by_source.unit, by_source.names) == ("source", ("a:b/page.md",))
    assert (by_name.unit, by_name.names) == ("filename", ("page.md",))
    assert by_name.of_row.tolist() == [0, 0]


def test_a_stage_without_its_model_has_no_figures_and_says_why(
    done: tuple[Path, Evaluation, JudgedSet],
) -> None:
    class NoReranker(HashingQueries):
        def rerank(self, text: str, documents: object) -> Float32Array:
            raise ModelNotAvailable("No reranker here.")

    bundle, found, _ = done
    work_dir = bundle.parents[2]
    without = corpora(work_dir.parent / "data", work_dir, encoders=NoReranker())
    (report,) = without.evaluate(lambda _: None).sets
    assert report.missing == {"reranked": "No reranker here."}
    assert report.reranked is None
    assert report.all_stages == found.sets[0].all_stages


def test_another_fusion_is_judged_and_must_fit(tmp_path: Path) -> None:
    data = write_beir(tmp_path / "zoo")
    kept: list[JudgedSet] = []
    only_bm25 = FusionConfig.parse("rrf(k=60, weights=0:1)")
    config = config_for(fusion=only_bm25)
    found = corpora(data, tmp_path / "work", config=config).evaluate(kept.append)
    assert found.settings["fusion"] == str(only_bm25)
    bm25, fused = (kept[0].rankings[name] for name in ("sparse:qdrant-bm25", "fused"))
    for query_id, ranking in bm25.items():
        assert fused[query_id].names[: len(ranking)] == ranking.names
    bundle = tmp_path / "work" / "whole" / "bundles" / "zoo"
    with pytest.raises(UsageError, match="3 weights for 2"):
        open_bundle(
            bundle, HashingQueries(), fusion=replace(only_bm25, weights=(1, 1, 1))
        )


def test_what_follows_the_reranked_documents_keeps_its_order() -> None:
    head = DocumentRanking(("b", "a"), (0.9, 0.2))
    behind = DocumentRanking(("a", "c", "b", "d"), (4.0, 3.0, 2.0, 1.0))
    assert head.followed_by(behind, 3) == DocumentRanking(
        ("b", "a", "c"), (0.9, 0.2, -0.8)
    )
