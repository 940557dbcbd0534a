"""What the finders see in each kind of text."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

import pytest

from processor.ultimate_embedder.chunking.formats import format_of
from processor.ultimate_embedder.chunking.structure import Cut, Structure

MARKDOWN = """---
title: front matter
---
Intro text
goes on.

Setext title
============

First paragraph.

## Sub ##

Steps:

- one
  more
  - nested
- two

| a | b |
|---|---|
| 1 | 2 |
| 3 | 4 |

```python
# not a heading

code()
```
After.
### Deep
#tag is no heading
"""

RST = """=====
Title
=====

Text.

Section
-------

- item

.. code-block:: python

   def f(): ...

Again
-----

+---+
| a |
+---+
"""

CODE = {
    "a.py": (
        "import os\n\n\n# about f\n@wrap\ndef f():\n    def inner(): ...\n\n\n"
        "class A:\n    x = 1\n\n    def m(self):\n        return 1\n",
        ["# about f > f", "class A: > A", "def m(self): > A.m"],
    ),
    "a.rs": (
        "/// Doc\n#[derive(Debug)]\npub struct S;\n\nimpl S {\n    /// d\n"
        "    fn m() {}\n}\nmod k {\n    fn g() {}\n}\n",
        [
            "/// Doc > S",
            "impl S { > S",
            "/// d > S.m",
            "mod k { > k",
            "fn g() {} > k.g",
        ],
    ),
    "a.go": (
        "package m\n\n// F does\nfunc (a *A) F() {}\n\ntype A struct{}\n",
        ["// F does > A.F", "type A struct{} > A"],
    ),
    "A.java": (
        "/** Doc */\n@X\nclass C {\n  /** m */\n  void f() {}\n  C() {}\n}\n",
        ["/** Doc */ > C", "/** m */ > C.f", "C() {} > C.C"],
    ),
    "a.c": (
        "#ifdef X\n/* f */\nint *f(int a) { return 0; }\n#endif\n"
        "struct S { int a; };\n",
        ["/* f */ > f", "struct S { int a; }; > S"],
    ),
    "a.cpp": (
        "namespace n {\ntemplate<class T>\nT g(T a) { return a; }\n}\nvoid A::h() {}\n",
        ["namespace n { > n", "template<class T> > n.g", "void A::h() {} > A::h"],
    ),
    "a.js": (
        "// c\nexport default class A {\n  f() {}\n}\nconst h = () => {}\nlet y = 1\n",
        ["// c > A", "f() {} > A.f", "const h = () => {} > h"],
    ),
    "a.ts": (
        "export interface I { a: string }\nnamespace N {\n  export class A {}\n}\n",
        [
            "export interface I { a: string } > I",
            "namespace N { > N",
            "export class A {} > N.A",
        ],
    ),
    "a.tsx": (
        "export function View() {\n  return <a>b</a>\n}\n",
        ["export function View() { > View"],
    ),
}


def find(name: str, text: str) -> Structure:
    kind = format_of(PurePosixPath(name))
    assert kind is not None
    return kind.find(text)


def _line(text: str, start: int) -> str:
    return text[start:].lstrip().split("\n", 1)[0]


def _cuts(name: str, text: str) -> dict[str, Cut]:
    return {_line(text, start): kind for start, kind in find(name, text).cuts}


def _paths(name: str, text: str) -> list[str]:
    return [" > ".join(path) for _, path in find(name, text).sections]


def test_markdown_headings_make_the_path() -> None:
    assert _paths("a.md", MARKDOWN) == [
        "Setext title",
        "Setext title > Sub",
        "Setext title > Sub > Deep",
    ]


def test_markdown_cuts_are_ranked() -> None:
    cuts = _cuts("a.md", MARKDOWN)
    assert cuts["Intro text"] is Cut.BLOCK
    assert cuts["goes on."] is Cut.LINE
    assert cuts["Setext title"] is Cut.TOP
    assert cuts["First paragraph."] is Cut.BOUND
    assert cuts["## Sub ##"] is Cut.SECTION
    assert cuts["- one"] is Cut.BOUND  # after "Steps:"
    assert cuts["- nested"] is Cut.PART
    assert cuts["- two"] is Cut.ITEM
    assert cuts["| a | b |"] is Cut.BLOCK
    assert cuts["| 1 | 2 |"] is Cut.BOUND  # stays with the head
    assert cuts["| 3 | 4 |"] is Cut.LINE
    assert cuts["code()"] is Cut.PART
    assert cuts["After."] is Cut.BLOCK
    assert cuts["#tag is no heading"] is Cut.BOUND  # right after a heading


def test_markdown_blocks_have_their_types() -> None:
    kinds = [kind for _, kind in find("a.md", MARKDOWN).blocks]
    assert kinds == [
        "prose_section",
        "list_section",
        "table_section",
        "code_block",
        "prose_section",
    ]


def test_a_fence_is_closed_only_by_its_own_kind() -> None:
    text = "````\n```\n# no heading\n~~~\n````\n# Heading\n"
    assert _paths("a.md", text) == ["Heading"]


def test_restructuredtext_titles_rank_by_first_appearance() -> None:
    assert _paths("a.rst", RST) == ["Title", "Title > Section", "Title > Again"]
    cuts = [(_line(RST, start), kind) for start, kind in find("a.rst", RST).cuts]
    assert cuts[0] == ("=====", Cut.TOP)
    assert ("Title", Cut.BOUND) in cuts
    assert ("Section", Cut.SECTION) in cuts


def test_restructuredtext_blocks_have_their_types() -> None:
    kinds = [kind for _, kind in find("a.rst", RST).blocks]
    assert "code_block" in kinds
    assert "list_section" in kinds
    assert kinds[-1] == "table_section"


@pytest.mark.parametrize("name", sorted(CODE))
def test_symbols_begin_with_their_comments_and_carry_their_path(name) -> None:
    text, expected = CODE[name]
    found = find(name, text)
    welcome = {start for start, kind in found.cuts if kind <= Cut.DETAIL}
    seen = [
        f"{_line(text, start)} > {'.'.join(path)}"
        for start, path in found.sections
        if start in welcome
    ]
    assert seen == expected


def test_positions_in_code_are_characters_not_bytes() -> None:
    text = "# Größe 東京 🎉\n\n\ndef f():\n    pass\n"
    (start, path), *_ = find("a.py", text).sections
    assert (text[start : start + 7], path) == ("def f()", ("f",))


def test_broken_code_still_has_lines_to_cut_at() -> None:
    found = find("a.py", "def f(:\n  ((((\nclass\n\nx = 1\n")
    assert len(found.cuts) >= 3


def test_deep_nesting_ends() -> None:
    depth = 3000
    text = "class A {\n" * depth + "}" * depth
    assert len(find("A.java", text).sections) < 200
    assert find("a.json", "[" * 50_000).cuts


def test_settings_files_carry_the_path_of_keys() -> None:
    assert _paths("a.yaml", "a:\n  b: 1\n  c:\n    d: 2\ne: 3\n") == [
        "a",
        "a > b",
        "a > c",
        "e",
    ]
    assert _paths("a.toml", "x = 1\n\n[tool.ruff]\nline = 88\n\n[[a]]\n") == [
        "tool > ruff",
        "a",
    ]
    text = '{\n  "name": "x",\n  "deps": {\n    "a": 1\n  }\n}\n'
    assert _paths("package.json", text)[:2] == ["name", "deps"]


def test_form_feeds_and_blank_lines_divide_plain_text() -> None:
    cuts = _cuts("a.txt", "one\ntwo\n\nthree\n\x0cfour\n- item\n")
    assert cuts["two"] is Cut.LINE
    assert cuts["three"] is Cut.BLOCK
    assert cuts["- item"] is Cut.ITEM
    assert Cut.TOP in cuts.values()


@pytest.mark.parametrize("name", ["photo.png", "a.exe", "b", "x.pyc"])
def test_other_files_are_no_documents(name) -> None:
    assert format_of(PurePosixPath(name)) is None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.toml", "[{0}x"),
        ("a.toml", "[x]{0}y"),
        ("a.yaml", "a{0}x"),
        ("a.yaml", "{0}-{0}x"),
    ],
)
def test_the_time_for_a_line_of_blanks_grows_with_its_length(name, line) -> None:
    # A quarter of a million squared would be minutes, linear is milliseconds.
    text = line.format(" " * 250_000)
    began = time.process_time()
    _paths(name, text)
    assert time.process_time() - began < 5


def test_a_line_of_brackets_takes_no_time() -> None:
    began = time.process_time()
    _paths("a.toml", "[" * 250_000)
    assert time.process_time() - began < 5
