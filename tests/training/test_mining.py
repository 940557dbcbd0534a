"""Training pairs: what a query takes leaves its document; sources are permissive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from training import mine
from training.mine_api import api_pairs
from training.mine_docstrings import docstring_pairs
from training.mine_fetch import Source, entry, fetch, listed, read_sources
from training.mine_notebooks import gallery_page, notebook_page
from training.mine_other import other_pairs, shell_pairs, workflow_pairs
from training.mine_packages import Package, from_archive, licence_of
from training.mine_pages import sections
from training.mine_pairs import Pair, first_sentence, fit, survives, words
from training.mine_pools import Limits, build_pool, ranked, write_pool
from training.mine_prose import prose_pairs, reference_pairs
from training.mine_python import python_pairs
from training.mine_queries import keywords, plain, question, vary

PAGE = """
.. _keeping:

Keeping bees over winter
========================

A colony that is warm and dry lives through the cold months. It needs stores of
honey, a narrow entrance and a roof that does not leak, and it is best left alone
until the willows bloom and the days are warm enough for flight again.

Feeding
-------

Sugar is given when the stores are low. See :ref:`keeping` for what a colony needs
besides sugar. The scales tell how much is left:

.. code-block:: console

    $ hive weigh --all
    12.5 kg

.. glossary::

    Drone
        A male bee of the colony. It hatches from an egg that nobody fertilised,
        and leaves no offspring unless it flies out to meet a queen.
"""

MARKDOWN = """# Orchard handbook

## How do I prune an old apple tree?

Take out dead wood first, then crossing branches, over three winters and never more
than a third of the crown in one of them.

## Grafting in spring

The scion is cut in January and kept cold. In April it is set on the stock, bound
and sealed with wax so that it does not dry out before the two have grown together.

Wrap the joint with raffia and seal it:

```bash
# Order raffia for fifty trees
orchard order raffia --trees 50
```
"""

CODE = '''"""Tools of the orchard.

They weigh the fruit, sort it by its colour and print labels for the boxes, each
with the name of the tree, the day of the harvest and the weight of what is in it.
"""

def ripe(apples, day):
    """Return the apples that are ripe on a day of the year.

    Colour decides, firmness is not looked at, and late kinds come last.
    """
    chosen = [a for a in apples if a.ripens <= day]
    chosen.sort(key=lambda a: a.ripens)
    return chosen


class Crate:
    """Hold the fruit of one tree together with its label and weight."""

    def add(self, apple):
        if self.full:
            raise ValueError("this crate of apples is already full")
        self.apples.append(apple)
        return len(self.apples)
'''

RUST = """
/// Count the blossoms of a branch that are still open.
fn open_blossoms(branch: &Branch) -> usize {
    let all = branch.blossoms();
    all.filter(|b| b.open).count()
}
"""

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{licence}\n\n"
BSD = "Classifier: License :: OSI Approved :: BSD License"


def archive(folder: Path, name: str, licence: str, files: dict[str, str]) -> Path:
    """A source archive with a licence line in its metadata."""
    path = folder / f"{name}-1.0.tar.gz"
    written = {"PKG-INFO": METADATA.format(name=name, licence=licence), **files}
    with tarfile.open(path, "w:gz") as out:
        for inner, text in written.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{inner}")
            entry.size = len(text.encode())
            out.addfile(entry, io.BytesIO(text.encode()))
    return path


def package(files: dict[str, str | bytes]) -> Package:
    """A package with these files."""
    data = {k: v.encode() if isinstance(v, str) else v for k, v in files.items()}
    return Package("orchard", "1.0", "MIT", data)


def every_pair() -> list[Pair]:
    """What the little sources give, before any filter."""
    pages = sections("bees.rst", PAGE) + sections("orchard.md", MARKDOWN)
    references, others = reference_pairs(pages)
    return [
        *references,
        *prose_pairs(others),
        *python_pairs("orchard.py", CODE),
        *other_pairs("blossom.rs", RUST),
    ]


def test_no_document_repeats_its_query() -> None:
    pairs = list(fit(every_pair()))
    assert len(pairs) >= 7
    for pair in pairs:
        assert not survives(pair.query, pair.document)


def test_a_document_that_repeats_its_query_is_left_out() -> None:
    text = "Bees sleep at night, as one sees when a hive is opened with a red lamp."
    assert list(fit([Pair("bees sleep at night", text, "heading")])) == []
    assert list(fit([Pair("when bees rest", text, "heading")])) != []


@pytest.mark.parametrize(
    "query",
    [
        "See also",
        "the following example",
        "pruning: see https://trees.example/pruning",
        "wie man Bäume schneidet, überwintert und veredelt",
        "prune trees",
        "it is best done in winter when the tree sleeps",
        "== 12 34 56 == -- 78",
    ],
)
def test_a_query_that_says_nothing_alone_is_left_out(query: str) -> None:
    document = "Dead wood goes first, crossing branches after it, over three winters."
    assert list(fit([Pair(query, document, "heading")])) == []


def test_a_question_as_heading_asks_for_its_answer() -> None:
    pairs = [p for p in every_pair() if p.source == "question"]
    assert [p.query for p in pairs] == ["How do I prune an old apple tree?"]
    assert pairs[0].document.startswith("Take out dead wood first")


def test_a_sentence_that_points_to_a_section_asks_for_it() -> None:
    pairs = [p for p in every_pair() if p.source == "reference"]
    assert [p.query for p in pairs] == [
        "See Keeping bees over winter for what a colony needs besides sugar"
    ]
    assert "narrow entrance" in pairs[0].document


def test_the_pointing_sentence_stands_in_no_other_document() -> None:
    documents = [p.document for p in every_pair()]
    assert not any("besides sugar" in document for document in documents)


def test_commands_are_asked_for_without_prompt_and_output() -> None:
    found = {p.document for p in every_pair() if "command" in p.source}
    assert found <= {"hive weigh --all", "orchard order raffia --trees 50"}
    assert found


def test_a_definition_loses_its_first_sentence() -> None:
    (pair,) = [p for p in every_pair() if p.source == "definition"]
    assert "male bee of" in pair.query.lower() or "male" in pair.query
    assert pair.document.startswith("Drone\nIt hatches from an egg")


def test_a_docstring_asks_for_its_function() -> None:
    (pair,) = [p for p in every_pair() if "def ripe" in p.document]
    assert "ripe on a day" not in pair.document
    assert "chosen.sort" in pair.document
    assert "apples" in pair.query


def test_an_error_message_asks_for_the_function_that_raises_it() -> None:
    (pair,) = [p for p in every_pair() if p.source == "error-message"]
    assert pair.query == "this crate of apples is already full"
    assert "already full" not in pair.document
    assert "raise ValueError" in pair.document


def test_a_module_is_asked_for_by_its_first_sentence() -> None:
    (pair,) = [p for p in every_pair() if p.source == "first-sentence-module"]
    assert words(pair.query)[-1] == "orchard"
    assert pair.document.startswith("They weigh the fruit")


def test_a_comment_in_another_language_asks_for_what_it_describes() -> None:
    (pair,) = [p for p in every_pair() if p.source == "comment-rs"]
    assert pair.document.startswith("fn open_blossoms")
    assert pair.document.endswith("}")
    assert "still open" not in pair.document


def test_a_test_name_in_words_asks_for_the_test() -> None:
    bodies = "".join(
        f"def test_apple_{n}_is_kept_cold():\n    fruit = cool({n})\n"
        f"    assert fruit.cold\n    assert fruit.kept\n\n"
        for n in range(20)
    )
    pairs = list(python_pairs("tests/test_fruit.py", bodies))
    assert pairs
    for pair in pairs:
        assert pair.query.startswith("apple ")
        assert pair.query.replace(" ", "_") not in pair.document


def test_a_cited_title_asks_for_the_method() -> None:
    docstrings = [
        f"Graft a scion in {n} ways.\n\nThe cut surfaces are bound together.\n\n"
        'References\n----------\n.. [1] Green, A., "On the union of scion and stock",'
        " Journal of Orchards, 1961."
        for n in range(10)
    ]
    pairs = [p for d in docstrings for p in docstring_pairs("graft", d)]
    cited = [p for p in pairs if p.source == "citation"]
    assert cited
    for pair in cited:
        assert pair.query == "On the union of scion and stock"
        assert "Journal of Orchards" not in pair.document


def test_galleries_and_notebooks_are_read_as_pages() -> None:
    script = (
        '"""\nCider\n=====\n\nPress.\n"""\n# %%\n# Wash the fruit:\n\nwash(fruit)\n'
    )
    assert "Wash the fruit:" in gallery_page(script)
    assert "    wash(fruit)" in gallery_page(script)
    cells = [
        {"cell_type": "markdown", "source": ["# Cider\n", "Press."]},
        {"cell_type": "code", "source": ["press(fruit)"]},
    ]
    page = notebook_page(json.dumps({"cells": cells}))
    assert page == "# Cider\nPress.\n\n```python\npress(fruit)\n```"
    assert notebook_page("no notebook") == ""


def test_services_and_command_help_give_pairs() -> None:
    service = {
        "metadata": {"serviceFullName": "Orchard Service"},
        "operations": {
            "ListTrees": {
                "documentation": "<p>Lists trees of an orchard. Old ones first.</p>"
            }
        },
    }
    help_text = (
        'helps["tree plant"] = """\nshort-summary: Plant a tree.\nexamples:\n'
        '  - name: Plant two pears by the wall\n    text: tree plant --kind pear\n"""\n'
    )
    files: dict[str, str | bytes] = {
        "data/service-2.json.gz": gzip.compress(json.dumps(service).encode()),
        "cli/_help.py": help_text,
    }
    pairs = {p.source: p for p in api_pairs(package(files))}
    assert pairs["operation"].document == "Orchard Service ListTrees\nOld ones first."
    assert "trees" in pairs["operation"].query
    assert pairs["example-command"].document == "tree plant --kind pear"


def test_scripts_and_workflows_give_commands() -> None:
    (pair,) = shell_pairs("#!/bin/sh\n\n# Weigh every hive\nhive weigh --all\n")
    assert (pair.document, pair.source) == ("hive weigh --all", "comment-command")
    steps = (
        "jobs:\n  a:\n    steps:\n      - name: Weigh hives\n        run: hive weigh"
    )
    (pair,) = workflow_pairs(steps)
    assert pair.document == "hive weigh"
    assert list(workflow_pairs("a: [")) == []


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"License-Expression": ["BSD-3-Clause AND MIT"]}, "BSD-3-Clause AND MIT"),
        ({"License-Expression": ["MPL-2.0 OR MIT"]}, "MPL-2.0 OR MIT"),
        ({"License-Expression": ["MIT AND GPL-3.0-only"]}, None),
        ({"Classifier": ["License :: OSI Approved :: MIT License"]}, "MIT License"),
        ({"License": ["Apache 2.0"]}, "Apache 2.0"),
        (
            {
                "Classifier": [
                    "License :: OSI Approved :: BSD License",
                    "License :: OSI Approved :: GNU General Public License (GPL)",
                ]
            },
            None,
        ),
        ({"License": ["LGPL"]}, None),
        ({}, None),
    ],
)
def test_only_permissive_licences_are_mined(
    metadata: dict[str, list[str]], expected: str | None
) -> None:
    assert licence_of(metadata) == expected


def test_an_archive_without_a_fit_licence_is_not_read(tmp_path: Path) -> None:
    copyleft = archive(tmp_path, "left", "License: GPL-3.0", {"a.md": MARKDOWN})
    assert from_archive(copyleft) is None


def test_copies_of_others_work_and_held_out_subjects_are_not_read(
    tmp_path: Path,
) -> None:
    names = ["docs/a.md", "_vendor/b.md", "docs/zh/c.md", "docs/kubernetes.md"]
    names += ["CHANGELOG.md", "node_modules/x/d.js"]
    path = archive(tmp_path, "orchard", BSD, dict.fromkeys(names, MARKDOWN))
    read = from_archive(path)
    assert read is not None
    assert list(read.files) == ["docs/a.md"]


def test_first_sentences_end_where_sentences_end() -> None:
    text = "Prune pears, e.g. Conference, late.\nKeep the spurs.\n\nMore below."
    sentence, rest = first_sentence(text)
    assert sentence == "Prune pears, e.g. Conference, late."
    assert rest == "Keep the spurs.\n\nMore below."
    sentence, rest = first_sentence("Weigh a hive\n:param hive: the hive")
    assert (sentence, rest) == ("Weigh a hive", ":param hive: the hive")


def test_queries_come_in_several_styles() -> None:
    sentence = "Return the apples that ripen before the first frost."
    assert question(sentence) in {
        f"{opening} get the apples that ripen before the first frost{mark}"
        for opening in ("how to", "how do I", "how can I", "what is the way to")
        for mark in ("", "?")
    }
    assert question("Apples of the garden") is None
    kept = (keywords(sentence) or "").split()
    assert 3 <= len(kept) <= 6
    assert set(kept) <= set(words(sentence))
    numbered = [f"Open the hive number {n} in the evening." for n in range(200)]
    assert len({vary(s).split()[0] for s in numbered}) >= 4
    assert [vary(s) for s in numbered] == [vary(s) for s in numbered]


def test_markup_leaves_a_query() -> None:
    written = "**Weigh** the :class:`~bees.Hive` with ``scales`` (`guide <a.html>`_):"
    assert plain(written) == "Weigh the bees.Hive with scales (guide)"


def pool_pairs() -> list[Pair]:
    """Three hundred pairs of two kinds about numbered trees."""
    kinds = ("heading", "test-name")
    return [
        Pair(
            f"where stands {kind} tree {n}", f"In row {n} of {kind}, by {n} oaks.", kind
        )
        for n in range(150)
        for kind in kinds
    ]


def test_a_pool_asks_each_query_of_one_document_that_it_holds() -> None:
    twice = [
        Pair("two answers to this", "One answer of many words.", "heading"),
        Pair("two answers to this", "Another answer of many words.", "heading"),
        Pair("the row of this oak", "Somewhere else entirely.", "heading"),
        Pair("an unrelated question here", "This is the row of this oak now.", "item"),
    ]
    quoted = Pair("the old oak in the row", "Somewhere by the wall.", "heading")
    quoting = Pair("what was felled", "We felled the old oak in the row.", "heading")
    pairs = [*pool_pairs(), *twice, quoted, quoting]
    pool = build_pool("trees", [pairs], Limits(queries=400, documents=500))
    asked = [pair.query for _, pair in pool.queries]
    assert len(asked) == len(set(asked))
    assert "two answers to this" not in asked
    assert "the old oak in the row" not in asked
    assert "what was felled" in asked
    for document, pair in pool.queries:
        assert pool.documents[document] == pair.document


def test_a_pool_keeps_its_limits_and_the_shares_of_kinds() -> None:
    pool = build_pool("trees", [pool_pairs()], Limits(queries=100, documents=120))
    kinds = [pair.source for _, pair in pool.queries]
    assert len(pool.documents) == 120
    assert len(pool.documents) > len(pool.queries)
    assert kinds.count("test-name") <= 5
    assert kinds.count("heading") <= 35


def test_natural_kinds_are_drawn_first_and_packages_alternate() -> None:
    pairs = pool_pairs()
    first = ranked([pairs[:150], pairs[150:]])[:40]
    assert sum(p.source == "heading" for p in first) > 30
    assert {p in pairs[:150] for p in first} == {True, False}


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    pairs = pool_pairs()
    limits = Limits(queries=100, documents=200)
    totals = [
        write_pool(build_pool("trees", [order], limits), tmp_path / name)
        for name, order in (("a", pairs), ("b", pairs[::-1]))
    ]
    assert totals[0] == totals[1]
    one, other = (tmp_path / n / "trees" / "queries.jsonl" for n in "ab")
    assert one.read_bytes() == other.read_bytes()
    row = json.loads(one.read_text().splitlines()[0])
    assert set(row) == {"_id", "text", "source", "positive"}


def test_the_card_tells_packages_licences_and_counts(tmp_path: Path) -> None:
    archive(tmp_path, "orchard", BSD, {"docs/a.md": MARKDOWN, "b.py": CODE})
    archive(tmp_path, "left", "License: GPL-3.0", {"docs/a.md": MARKDOWN})
    sources = tmp_path / "sources.toml"
    pins = [Source(name, "1.0", "", "p") for name in ("orchard", "left")]
    sources.write_text("".join(entry(pin) for pin in pins))
    card = mine.mine(tmp_path, tmp_path / "pools", Limits(), sources)
    assert card["skipped"] == ["left"]
    (pool,) = card["pools"].values()
    assert pool["packages"] == [
        {"name": "orchard", "version": "1.0", "licence": "BSD License"}
    ]
    lines = (tmp_path / "pools" / "p" / "queries.jsonl").read_text().splitlines()
    assert pool["queries"] == len(lines) == sum(pool["sources"].values())


def test_the_index_lists_releases_of_source_archives_oldest_first() -> None:
    page = """
    <a href="../../f/orchard-1.10.tar.gz#sha256=aa">orchard-1.10.tar.gz</a>
    <a href="../../f/orchard-1.9.tar.gz#sha256=bb">orchard-1.9.tar.gz</a>
    <a href="../../f/orchard-2.0rc1.tar.gz#sha256=cc">orchard-2.0rc1.tar.gz</a>
    <a href="../../f/orchard-1.11.tar.gz#sha256=dd" data-yanked="">yanked</a>
    <a href="../../f/orchard-1.10-py3-none-any.whl#sha256=ee">wheel</a>
    """
    found = listed(page, "https://index.example/simple/orchard/")
    assert [(str(a.version), a.sha256) for a in found] == [
        ("1.9", "bb"),
        ("1.10", "aa"),
    ]
    assert found[0].url == "https://index.example/f/orchard-1.9.tar.gz"


def test_an_archive_that_is_there_and_fits_its_pin_is_not_asked_for(
    tmp_path: Path,
) -> None:
    path = archive(tmp_path, "orchard", BSD, {"a.md": MARKDOWN})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert fetch(Source("orchard", "1.0", sha256, "p"), tmp_path) == path


def test_every_package_is_pinned_once_and_in_one_pool() -> None:
    pins = read_sources()
    assert len({pin.name for pin in pins}) == len(pins)
    assert all(len(pin.sha256) == 64 and pin.pool for pin in pins)
    assert sum(pin.pool.startswith("held-") for pin in pins) >= 2


def test_the_data_card_agrees_with_the_pins() -> None:
    card = json.loads(mine.CARD.read_text())
    pinned = {pin.pool for pin in read_sources()}
    assert pinned <= set(card["pools"])
    names = [
        package["name"].lower()
        for pool in card["pools"].values()
        for package in pool["packages"]
    ]
    assert len(names) == len(set(names))
    assert card["skipped"] == []
