"""Texts and names made to break readers: embedded, or set aside with a reason."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from promises import Promise
from torture_parts import COLLECTION, config_of, run_once

from processor.ultimate_embedder.verify import verify_bundle

FAMILY = "👩‍👩‍👧‍👦"
LONG_WORD = 1_000_000
TEXTS = {
    "a long word": "x" * LONG_WORD,
    "ten thousand marks": "a" + "\u0301" * 10_000,
    "marks alone": "\u0301\u0302\u0303",
    "right to left": "שלום עולם مرحبا بالعالم " * 20,
    "bidi marks": "\u202e\u2066abc\u2069\u202c\u200f\u061c user\u202egnp.exe",
    "joined emoji": FAMILY * 500,
    "flags and skins": "🏴󠁧󠁢󠁳󠁣󠁴󠁿🇩🇪👍🏿" * 50,
    "controls": "".join(map(chr, (*range(32), 127, *range(128, 160)))) + "word",
    "nuls": "before\0after\0\0\0end",
    "line ends": "a\rb\r\nc\u2028d\u2029e\x85f\x0bg\x0ch",
    "no blanks at all": "".join(chr(0x4E00 + number) for number in range(5000)),
    "not characters": "\ufffe\uffff\U0001ffff\ufffd",
    "private": "\ue000\uf8ff\U000f0000",
    "zero width": "\u200b\u200c\u200d\ufeff" * 100 + "word",
    "special tokens": "[CLS] [SEP] [PAD] [MASK] [UNK] <s> </s> <|endoftext|>",
    "format strings": "%s %n {0} {} ${HOME} `id` $(id)",
    "queries": "'; DROP TABLE batches; -- \" OR 1=1",
    "markup": "<script>alert(1)</script> ]]> &amp; <!--",
    "json in json": json.dumps({"text": json.dumps(["\\", '"', "\u0000"])}),
    "terminal": "\x1b[2J\x1b]0;owned\x07\x1b[31m",
    "digits": "9" * 5000 + " १२३ ٣٤٥ ⅷ ²",
    "same to the eye": "а a \u0430 ａ 𝐚",
    "composed": "é",
    "decomposed": "e\u0301",
}
ASIDE = {
    "a lone surrogate": '"\\ud800 word"',
    "surrogates reversed": '"\\udc00\\ud800"',
    "blank": '" \\u2003\\u00a0\\n "',
    "a number": "12",
    "null": "null",
}
NAMES = (
    *("../../etc/passwd", "/absolute", "C:\\windows", "a\0b", "a\nb", "con", "NUL.txt"),
    *("'; DROP TABLE", "%2e%2e%2f", "x" * 3000, ".", "..", " ", "-rf", "~", "é.md"),
    *("e\u0301.md", "README.md", "readme.md", "ﬁ.md", "\u202egpj.md", "🦀", ":chunk:0"),
)


def categories(each: int) -> Iterator[tuple[str, str]]:
    """Yield a text for every general category of Unicode, but lone surrogates."""
    found: dict[str, list[str]] = {}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind != "Cs" and len(found.setdefault(kind, [])) < each:
            found[kind].append(character)
    for kind, characters in sorted(found.items()):
        yield f"category {kind}", f"word {''.join(characters)} word"


def write_hostile(root: Path, each: int) -> tuple[dict[str, str], int]:
    """Write it all; return texts by file, and how many entries must be set aside."""
    folder = root / "chunked" / COLLECTION / "guide"
    folder.mkdir(parents=True)
    texts = TEXTS | dict(categories(each))
    entries = [
        json.dumps({"text": text, "metadata": {"filename": f"{name}.txt"}})
        for name, text in texts.items()
    ]
    entries += [f'{{"text": {text}}}' for text in ASIDE.values()]
    entries += ['{"text": "x", "metadata": {"filename": "\\ud800"}}']
    (folder / "texts_chunks.json").write_text(f"[{','.join(entries)}]")
    named = [{"text": f"name {n}", "metadata": {"filename": n}} for n in NAMES]
    (folder / "names_chunks.json").write_text(json.dumps(named))
    stems = ["x" * 230, "A", "a", "é", "e\u0301", "-rf", "it's; rm", "\u202eabc"]
    for stem in stems:
        content = json.dumps({"text": f"file {stem}"})
        (folder / f"{stem}_chunks.json").write_text(content)
    bad = os.fsencode(str(folder)) + b"/\xff_chunks.json"
    Path(os.fsdecode(bad)).write_text("{}")
    expected = texts | {f"name {n}": f"name {n}" for n in NAMES}
    return expected | {f"file {s}": f"file {s}" for s in stems}, len(ASIDE) + 1


@pytest.mark.parametrize("each", [20, pytest.param(3000, marks=pytest.mark.torture)])
def test_every_text_is_embedded_or_set_aside_and_the_counts_add_up(
    tmp_path: Path, each: int, promise: Promise
) -> None:
    promise.holds(
        "Hostile texts and names (every Unicode category, controls, bidi marks, lone "
        "surrogates, NULs, words of 1 MB, 10,000 combining marks, path-like and SQL "
        "names): embedded or set aside with a reason, the counts add up, verify passes"
    )
    expected, aside = write_hostile(tmp_path, each)
    config = config_of(tmp_path)
    for _ in promise.rounds(range(1)):
        assert run_once(config) == 0
    promise.done = len(expected) + aside
    bundle = tmp_path / "out" / COLLECTION
    lines = (bundle / f"{COLLECTION}_qdrant.jsonl").read_bytes().split(b"\n")[:-1]
    points = [json.loads(line) for line in lines]
    assert sorted(point["payload"]["text"] for point in points) == sorted(
        expected.values()
    )
    manifest = json.loads((bundle / "processing_summary.json").read_bytes())
    counted = manifest["conservation"]
    quarantined = [one for one in counted["quarantined"] if one["index"] is not None]
    assert len(quarantined) == aside
    assert all(one["reason"] for one in counted["quarantined"])
    assert counted["chunks_read"] == counted["embedded"] + len(quarantined)
    assert counted["embedded"] == len(points) == manifest["chunk_count"]
    vectors = np.load(bundle / f"{COLLECTION}_all-miniLM-l6_embeddings.npy")
    assert np.isfinite(vectors).all()
    assert verify_bundle(bundle).whole
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"chunked", "out"}
