"""From the bytes of each format to its source text, and what is refused."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.chunking import (
    document,
    html,
    notebook,
    office,
)
from processor.ultimate_embedder.chunking.document import (
    ChunkSettings,
    chunk_document,
)
from processor.ultimate_embedder.chunking.formats import FORMATS
from processor.ultimate_embedder.chunking.sources import (
    SourceText,
    Unreadable,
    decode,
)

SETTINGS = ChunkSettings("all-miniLM-l6", 256)


@given(st.text())
@settings(deadline=None)
def test_valid_utf8_text_is_read_as_it_stands(text) -> None:
    data = text.encode("utf-8", "replace")
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in data)
    if controls * 50 <= len(data) and 0x7F not in data and not data.startswith(b"\xef"):
        assert decode(data) == SourceText(data.decode("utf-8"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(encoding) -> None:
    assert decode("naïve 東京".encode(encoding)).text == "naïve 東京"


def test_a_text_that_breaks_its_byte_order_mark_is_refused() -> None:
    with pytest.raises(Unreadable) as refused:
        decode(b"\xff\xfea\x00b")
    assert refused.value.reason == "bad_encoding"


def test_damaged_utf8_keeps_what_is_valid() -> None:
    source = decode("naïve café 東京".encode() + b"\xff end")
    assert source.text == "naïve café 東京\ufffd end"
    assert "1 bytes" in source.warnings[0]


def test_older_western_text_is_read_as_windows_1252() -> None:
    source = decode("Größe “quoted” — naïve".encode("cp1252"))
    assert source.text == "Größe “quoted” — naïve"
    assert "Windows-1252" in source.warnings[0]


def test_bytes_that_windows_1252_lacks_are_counted() -> None:
    source = decode(b"caf\xe9 \x81 \x8d")
    assert source.text == "café \ufffd \ufffd"
    assert "2 bytes replaced" in source.warnings[0]


@pytest.mark.parametrize(
    "page",
    [
        "<html><head><meta charset='iso-8859-2'></head><body>łódź</body></html>",
        '<?xml version="1.0" encoding="ISO-8859-2"?><html><body>łódź</body></html>',
    ],
)
def test_a_page_is_read_by_the_encoding_that_it_declares(page) -> None:
    source = html.read(page.encode("iso-8859-2"))
    assert source.text == "łódź"
    assert "iso-8859-2" in source.warnings[0].lower()


@pytest.mark.parametrize(
    "declared", ["iso-8859-1", "utf-8", "utf-16", "unicode_escape", "hex", "no-such"]
)
def test_a_declared_encoding_that_cannot_be_meant_is_passed_over(declared) -> None:
    source = decode(b"\x93na\xefve\x94 \\u0041", declared)
    assert source.text == "“naïve” \\u0041"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
        b"PK\x03\x04" + bytes(200),
        b"\x7fELF" + b"\x00\x01\x02" * 50,
        "text".encode("utf-16-le") * 20,
    ],
)
def test_binary_content_is_refused_whatever_the_name(data) -> None:
    with pytest.raises(Unreadable) as refused:
        decode(data)
    assert refused.value.reason == "binary"


def test_html_gives_what_is_seen_as_markdown() -> None:
    page = b"""<html><head><title>t</title><style>p{}</style></head><body>
    <h1>Top  <em>title</em></h1><p>One
    two.<br>three</p><script>alert(1)</script>
    <ul><li>item <b>one</b></li><li><p>two</p></li></ul>
    <table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
    <pre>x = 1
      y</pre></body></html>"""
    assert html.read(page).text.split("\n") == [
        "# Top title",
        "",
        "One two.",
        "three",
        "",
        "- item one",
        "- two",
        "",
        "| a | b |",
        "| 1 | 2 |",
        "",
        "```",
        "x = 1",
        "      y",
        "```",
    ]


@pytest.mark.parametrize(
    ("inside", "code"),
    [
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<div class=line>one</div><div>two</div>", "one\ntwo"),
        ("<code><span>one<br></span><span>two<br></span></code>", "one\ntwo"),
        ("<div>one</div><div><br></div><div>two</div>", "one\n\ntwo"),
        ("<ol><li>one<li>  two</ol>", "one\n  two"),
        ("one\n\n\n\ntwo", "one\n\n\n\ntwo"),
    ],
)
def test_lines_of_code_in_html_stay_as_they_are_seen(inside, code) -> None:
    page = f"<p>before</p>\n\n\n<pre>{inside}</pre><p></p><p>after</p>"
    assert html.read(page.encode()).text == f"before\n\n```\n{code}\n```\n\nafter"


def test_options_of_a_choice_stay_apart() -> None:
    page = b"pick <select><option>a<option>b</select> now"
    assert html.read(page).text == "pick\na\nb\nnow"


@pytest.mark.parametrize("empty", ["<title/>", "<script src='x.js'/>", "<style />"])
def test_an_empty_element_of_xhtml_does_not_swallow_the_page(empty) -> None:
    page = (
        '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">'
        f"<head>{empty}</head><body><p>text</p></body></html>"
    )
    assert html.read(page.encode()).text == "text"


def test_html_nested_without_bound_is_read() -> None:
    depth = 20_000
    text = html.read(b"<div>" * depth + b"deep" + b"</div>" * depth).text
    assert text == "deep"


def _notebook(*cells: object) -> bytes:
    return json.dumps(
        {
            "metadata": {"language_info": {"name": "python"}},
            "cells": list(cells),
            "nbformat": 4,
        }
    ).encode()


def test_a_notebook_gives_sources_and_no_outputs() -> None:
    data = _notebook(
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": "print('```')",
            "outputs": [{"data": {"image/png": "iVBORw0KGgo="}}],
        },
        {"cell_type": "markdown", "source": "```\nleft open"},
        {"cell_type": "markdown", "source": "# Next"},
        {"cell_type": "code", "source": ""},
        "not a cell",
    )
    text = notebook.read(data).text
    assert text == (
        "# Title\ntext\n\n````python\nprint('```')\n````\n\n"
        "```\nleft open\n```\n\n# Next"
    )


def test_lone_surrogates_of_a_notebook_become_replacement_characters() -> None:
    data = b'{"cells": [{"cell_type": "markdown", "source": "a \\ud800 b"}]}'
    read = notebook.read(data)
    assert read.text == "a \ufffd b"
    assert read.warnings == ("lone surrogates: 1 replaced by U+FFFD",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"{", "not_json"), (b"[1]", "not_a_notebook"), (b"[" * 10**6, "not_json")],
)
def test_json_that_is_no_notebook_is_refused(data, reason) -> None:
    with pytest.raises(Unreadable) as refused:
        notebook.read(data)
    assert refused.value.reason == reason


@pytest.mark.parametrize("cells", [b"5", b'"text"', b'{"a": 1}', b"null"])
def test_a_sheet_of_a_notebook_whose_cells_are_no_list_has_none(cells) -> None:
    assert notebook.read(b'{"worksheets": [{"cells": %b}]}' % cells).text == ""


def _saved(document: object) -> bytes:
    stream = io.BytesIO()
    document.save(stream)  # type: ignore[attr-defined]
    return stream.getvalue()


def test_slides_give_titles_text_and_notes() -> None:
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Plan"
    slide.placeholders[1].text = "first step"
    slide.notes_slide.notes_text_frame.text = "say hello"
    text = office.read_pptx(_saved(deck)).text
    assert text == "# Plan\n\nfirst step\n\nsay hello"


def test_slides_give_the_text_of_groups_in_groups() -> None:
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Plan"
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "in a group"
    inner = group.shapes.add_group_shape()
    inner.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "deeper"
    text = office.read_pptx(_saved(deck)).text
    assert text == "# Plan\n\nin a group\n\ndeeper"


def test_workbooks_give_the_values_of_each_sheet() -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Data"
    book.active.append(["name", "value"])
    book.active.append(["x", 1])
    text = office.read_xlsx(_saved(book)).text
    assert text == "# Data\n\n| name | value |\n| x | 1 |"


def _with_sheet(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return a workbook with other XML in its first sheet."""
    changed = io.BytesIO()
    before = zipfile.ZipFile(io.BytesIO(data))
    with before, zipfile.ZipFile(changed, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith("sheet1.xml"):
                assert old in content
                content = content.replace(old, new)
            after.writestr(name, content)
    return changed.getvalue()


def test_a_workbook_that_is_wrong_about_its_size_gives_all_cells() -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Data"
    book.active.append(["a", "b"])
    book.active.append(["c", "d"])
    data = _with_sheet(_saved(book), b'<dimension ref="A1:B2"', b'<dimension ref="A1"')
    assert office.read_xlsx(data).text == "# Data\n\n| a | b |\n| c | d |"


def test_formulas_that_nothing_has_computed_are_counted() -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Data"
    book.active.append(["sums", "=1+1", "=1+2", '=""'])
    data = _saved(book)
    data = _with_sheet(data, b"<f>1+2</f>", b"<f>1+2</f><v>3</v>")
    data = _with_sheet(data, b'r="D1"', b'r="D1" t="str"')
    source = office.read_xlsx(data)
    assert source.text == "# Data\n\n| sums |  | 3 |  |"
    (warning,) = source.warnings
    assert "formulas without a kept value: 1;" in warning


PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R
/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>endobj
4 0 obj<</Length 44>>stream
BT /F1 18 Tf 20 100 Td (Hello PDF text) Tj ET
endstream endobj
trailer<</Root 1 0 R>>
"""


def test_a_pdf_gives_its_text_layer_by_page() -> None:
    pytest.importorskip("pypdfium2")
    assert office.read_pdf(PDF).text == "# Page 1\n\nHello PDF text"


@pytest.mark.parametrize("extension", [".pdf", ".docx", ".pptx", ".xlsx"])
def test_damaged_office_files_are_set_aside(extension, counter) -> None:
    for data in (b"PK\x03\x04 broken", b"%PDF-1.4 broken", b"plain"):
        with pytest.raises(Unreadable) as refused:
            chunk_document(PurePosixPath("c/a" + extension), data, SETTINGS, counter)
        assert refused.value.reason == "damaged"


@pytest.mark.parametrize(
    ("extension", "library"),
    [
        (".pdf", "pypdfium2"),
        (".docx", "docx"),
        (".pptx", "pptx"),
        (".xlsx", "openpyxl"),
    ],
)
def test_without_the_extra_the_file_is_set_aside_with_the_cure(
    extension, library, counter, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Unreadable) as refused:
        chunk_document(PurePosixPath("c/a" + extension), b"x", SETTINGS, counter)
    assert refused.value.reason == "missing_extra"
    assert "pip install '.[documents]'" in refused.value.detail


@pytest.mark.parametrize("part", ["read", "find"])
def test_a_reader_that_fails_sets_the_file_aside(part, counter, monkeypatch) -> None:
    def fail(_: object) -> None:
        raise TypeError("its own fault")

    kind = replace(FORMATS[".md"], **{part: fail})
    monkeypatch.setattr(document, "format_of", lambda _: kind)
    with pytest.raises(Unreadable) as refused:
        chunk_document(PurePosixPath("c/a.md"), b"text", SETTINGS, counter)
    assert refused.value.reason == "damaged"
    assert refused.value.detail == "the markdown file cannot be read (TypeError)"


def test_too_little_memory_is_no_fault_of_the_file(counter, monkeypatch) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    kind = replace(FORMATS[".md"], read=fail)
    monkeypatch.setattr(document, "format_of", lambda _: kind)
    with pytest.raises(MemoryError):
        chunk_document(PurePosixPath("c/a.md"), b"text", SETTINGS, counter)


@settings(max_examples=60, deadline=None)
@given(
    data=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)),
    extension=st.sampled_from(sorted(FORMATS)),
)
def test_any_bytes_under_any_name_are_chunked_or_refused(
    counter_once, data, extension
) -> None:
    try:
        made = chunk_document(
            PurePosixPath("c/a" + extension), data, SETTINGS, counter_once
        )
    except Unreadable as refused:
        assert refused.reason
        assert "\n" not in refused.detail
    else:
        assert all(record["text"].strip() for record in made.records)
