"""Judged sets as pools: what is relevant is never a negative."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from processor.ultimate_embedder.evaluation.beir import find_beir_folders
from processor.ultimate_embedder.testing import HashingModels
from training.judged_pool import main, write_pool
from training.residual_groups import GroupChoices, draw, pool_groups
from training.train_residual import JUDGED_TIMES, PoolGroups, learnt_from

MODELS = HashingModels(offline=True)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Ten documents on beavers; two queries, the first with three answers."""
    folder = tmp_path / "zoo"
    (folder / "qrels").mkdir(parents=True)
    lines = [
        {"_id": f"d{n}", "title": f"Beaver {n}", "text": f"beavers build dam {n} wood"}
        for n in range(10)
    ]
    queries = [
        {"_id": "a", "text": "who builds a dam of wood"},
        {"_id": "b", "text": "beaver seven"},
        {"_id": "c", "text": "not judged"},
    ]
    for name, rows in (("corpus", lines), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n"
        "a\td3\t1\na\td1\t2\na\td2\t1\na\td9\t0\nb\td7\t1\nb\tgone\t1\n"
    )
    return folder


def test_every_relevant_document_asks_once_and_names_the_others(
    judged: Path, tmp_path: Path
) -> None:
    assert main([str(judged), str(tmp_path / "pool")]) == 0
    rows = [
        json.loads(line)
        for line in (tmp_path / "pool" / "queries.jsonl").read_text().splitlines()
    ]
    assert [(row["positive"], row["others"]) for row in rows] == [
        ("d1", ["d2", "d3"]),
        ("d2", ["d1", "d3"]),
        ("d3", ["d1", "d2"]),
        ("d7", []),
    ]
    assert len({row["_id"] for row in rows}) == 4


def test_no_negative_of_a_group_is_relevant(judged: Path, tmp_path: Path) -> None:
    (folder,) = find_beir_folders(judged)
    write_pool(folder, tmp_path / "pool")
    choices = GroupChoices(queries=1, documents=1)  # a judged set is taken whole
    asked, texts = draw(tmp_path / "pool", choices)
    assert (len(asked), len(texts)) == (4, 10)
    groups, _ = pool_groups(tmp_path / "pool", choices, MODELS)
    assert len(groups) == 4
    relevant = {f"Beaver {n}\n\nbeavers build dam {n} wood" for n in (1, 2, 3)}
    for group in groups:
        if group.query == "who builds a dam of wood":
            assert group.documents[0] in relevant
            assert relevant.isdisjoint(group.documents[1:])
            assert len(group.documents) == 8  # the answer and the seven not relevant


def test_judged_groups_count_more_than_once_and_held_ones_not_at_all(
    judged: Path, tmp_path: Path
) -> None:
    (folder,) = find_beir_folders(judged)
    write_pool(folder, tmp_path / "pool")
    groups, _ = pool_groups(tmp_path / "pool", GroupChoices(), MODELS)
    pools = [
        PoolGroups("judged-zoo", "", tuple(groups), 0),
        PoolGroups("held-zoo", "", tuple(groups), 0),
    ]
    assert len(learnt_from(pools)) == JUDGED_TIMES * len(groups)
