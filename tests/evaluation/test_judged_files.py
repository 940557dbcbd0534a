"""Corpora and judgements from files: both forms, and what is wrong with a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_parts import RELEVANT, write_beir, write_lines

from processor.ultimate_embedder.errors import InputError, UsageError
from processor.ultimate_embedder.evaluation.beir import find_beir_folders
from processor.ultimate_embedder.evaluation.judged_bundle import judged_queries
from processor.ultimate_embedder.evaluation.judgements import read_judgements
from processor.ultimate_embedder.records import Query


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "qrels"
    path.write_text(content, "utf-8")
    return path


def test_both_forms_of_judgements_say_the_same(tmp_path: Path) -> None:
    trec = "q1 0 d1 1\nq1 0 d2 0\n\nq2 0 d1 2\n"
    beir = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t2\n"
    expected = {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 2}}
    assert read_judgements(written(tmp_path, trec)) == expected
    assert read_judgements(written(tmp_path, beir)) == expected
    assert read_judgements(written(tmp_path, beir.replace("\n", "\r\n"))) == expected


def test_ids_with_blanks_stay_whole_between_tabs(tmp_path: Path) -> None:
    found = read_judgements(written(tmp_path, "q 1\tmy file.md\t1\n"))
    assert found == {"q 1": {"my file.md": 1}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("q1 0 d1\n", "line 1: no judgement of a known form"),
        ("q1 0 d1 1\nq1 0 d1\n", "line 2: 3 columns, not 4"),
        ("a\tb\tscore\nq1\td1\n", "line 2: 2 columns with tabs between, not 3"),
        ("q1 0 d1 high\n", "line 1: the relevance 'high' is no whole number"),
        ("q1 0 d1 1\nq1 0 d1 0\n", "line 2: 'd1' is judged twice for 'q1'"),
        ("\n", "holds no judgement"),
    ],
)
def test_a_line_that_is_no_judgement_is_named(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        read_judgements(written(tmp_path, content))
    assert raised.value.cure


def test_a_missing_file_of_judgements_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no_such"):
        read_judgements(tmp_path / "no_such")


def test_one_folder_or_a_folder_of_them_is_found(tmp_path: Path) -> None:
    for name in ("second", "first"):
        write_beir(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [one.name for one in find_beir_folders(tmp_path)] == ["first", "second"]
    (alone,) = find_beir_folders(tmp_path / "first")
    assert alone.name == "first"
    assert alone.judgements() == RELEVANT
    (chosen,) = find_beir_folders(tmp_path, names=["second"])
    assert chosen.name == "second"


def test_documents_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    (folder,) = find_beir_folders(write_beir(tmp_path / "set"))
    names = [document.name for document in folder.documents()]
    assert len(names) == 12
    assert names == sorted(names)


def test_what_a_folder_lacks_is_said_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        find_beir_folders(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no judged collection"):
        find_beir_folders(tmp_path)
    write_beir(tmp_path / "set", split="dev")
    with pytest.raises(UsageError, match=r"lacks qrels/test\.tsv.*splits: dev"):
        find_beir_folders(tmp_path)
    with pytest.raises(UsageError, match=r"holds no collection other.*Found: set"):
        find_beir_folders(tmp_path, "dev", ["other"])
    (tmp_path / "set" / "queries.jsonl").unlink()
    with pytest.raises(UsageError, match=r"lacks queries\.jsonl"):
        find_beir_folders(tmp_path, "dev")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: no JSON that can be read"),
        ("[]", "line 2: no JSON object"),
        ('{"text": "a"}', 'line 2: "_id" must be'),
        ('{"_id": "b"}', 'line 2: "text" must be a string'),
        ('{"_id": "b", "text": "\\ud800"}', "line 2: no valid Unicode"),
        ('{"_id": "a", "text": "b"}', "line 2: a second document has the id 'a'"),
    ],
)
def test_a_document_that_cannot_be_used_is_named(
    tmp_path: Path, line: str, said: str
) -> None:
    (folder,) = find_beir_folders(write_beir(tmp_path / "set"))
    path = write_lines(folder.path / "corpus.jsonl", [{"_id": "a", "text": "x"}])
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(InputError, match=said) as raised:
        folder.documents()
    assert raised.value.cure


def test_queries_that_cannot_be_judged_are_left_out_and_counted() -> None:
    queries = [Query("a", "x"), Query("b", "y"), Query("c", "z")]
    found = judged_queries(queries, {"a": {"d": 1}, "b": {"d": 0}, "gone": {"d": 1}})
    assert [query.query_id for query in found.queries] == ["a"]
    assert found.notes == (
        "Queries without a relevant document, left out: 2.",
        "Judged queries without a text, left out: 1.",
    )


def test_judgements_of_other_queries_are_refused() -> None:
    with pytest.raises(InputError, match=r"No query has .* \(queries: 1, "):
        judged_queries([Query("a", "x")], {"b": {"d": 1}})
