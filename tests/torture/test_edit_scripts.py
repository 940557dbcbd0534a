"""An edited corpus: what is new is embedded, and the bundle is that of a full run.

Each script edits the pages of a collection a few times: texts added, changed, removed,
moved to another page, whole pages removed, and now and then a kill in the middle. After
each edit the bundle made with what earlier runs left is compared, file by file, with
one made from nothing.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from faults import Faults, in_child
from promises import Promise
from torture_parts import config_of, run_once, some_pages, sums, write_pages

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.telemetry.events import BatchFinished
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts

EDITS = 4
Pages = dict[str, list[str]]


def fresh_text(chance: random.Random) -> str:
    """Return a text nobody has seen, now and then longer than the window."""
    word = "".join(chance.choices("bcdfghklmnprstvz", k=7))
    return f"## Why {word} matters\n\n" + f"It is {word}. " * chance.choice((2, 9, 120))


def edited(pages: Pages, chance: random.Random) -> Pages:
    """Return the pages after one edit."""
    now = {name: list(texts) for name, texts in pages.items()}
    page = now[chance.choice(sorted(now))]
    match chance.choice(("add", "change", "remove", "move", "page", "drop", "twice")):
        case "add":
            page.insert(chance.randrange(len(page) + 1), fresh_text(chance))
        case "change":
            page[chance.randrange(len(page))] += " And " + fresh_text(chance)
        case "remove" if len(page) > 1:
            page.pop(chance.randrange(len(page)))
        case "move" if len(page) > 1:
            now[chance.choice(sorted(now))].append(page.pop(0))
        case "page":
            now[f"page{chance.randrange(10**6)}"] = [fresh_text(chance)]
        case "drop" if len(now) > 2:
            now.pop(chance.choice(sorted(now)))
        case _:
            page.append(page[0])
    return now


def embedded(root: Path, output: str) -> int:
    """Run, and return how many texts went through the model."""
    heard = RecordingListener()
    config = config_of(root, output)
    assert BatchRunner(config, heard, "run", hashing_parts()).run().exit_code == 0
    return sum(
        event.items
        for event in heard.of(BatchFinished)
        if isinstance(event, BatchFinished) and event.stage == "dense"
    )


def texts_of(pages: Pages) -> set[str]:
    return {text for texts in pages.values() for text in texts}


@pytest.mark.parametrize("scripts", [2, pytest.param(100, marks=pytest.mark.torture)])
def test_the_bundle_of_an_edited_corpus_is_that_of_a_full_run(
    tmp_path: Path, scripts: int, promise: Promise
) -> None:
    promise.holds(
        f"An edited corpus, {EDITS} edits a script, some with kill -9: only new texts "
        "are embedded, and the bundle is that of a full run"
    )
    for script in promise.rounds(range(scripts)):
        root = tmp_path / f"script{script}"
        chance = random.Random(script)
        pages = dict(list(some_pages(4).items()))
        write_pages(root / "chunked", pages)
        assert embedded(root, "out") == len(texts_of(pages))
        for edit in range(EDITS):
            before = texts_of(pages)
            pages = edited(edited(pages, chance), chance)
            write_pages(root / "chunked", pages)
            killed = chance.random() < 0.4
            if killed:
                kill = Faults("kill", chance.randrange(1, 150), root)
                in_child(lambda root=root: run_once(config_of(root)), kill)
            computed = embedded(root, "out")
            new = texts_of(pages) - before
            where = f"script {script}, edit {edit}"
            assert computed <= len(new), where
            assert killed or computed == len(new), where
            shutil.rmtree(root / "full", ignore_errors=True)
            assert embedded(root, "full") == len(texts_of(pages)), where
            assert sums(root / "out") == sums(root / "full"), where
        shutil.rmtree(root)
