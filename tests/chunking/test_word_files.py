"""Word files: all that a reader sees, in its order."""

from __future__ import annotations

import io
import re

import pytest

from processor.ultimate_embedder.chunking import formula, office


def _saved(document: object) -> bytes:
    stream = io.BytesIO()
    document.save(stream)  # type: ignore[attr-defined]
    return stream.getvalue()


def test_word_files_give_headings_paragraphs_and_tables() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("Top", 1)
    document.add_paragraph("Some text.")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "a", "b"
    document.add_paragraph("point", style="List Bullet")
    text = office.read_docx(_saved(document)).text
    assert text == "# Top\n\nSome text.\n\n| a | b |\n\n- point"


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def test_word_files_give_insertions_and_controls_and_no_deletions() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    paragraph = document.add_paragraph("plain")
    for xml in (
        f"<w:ins {W} w:id='1' w:author='a'><w:r><w:t>, inserted</w:t></w:r></w:ins>",
        f"<w:del {W} w:id='2' w:author='a'><w:r><w:delText>, deleted</w:delText>"
        "<w:t>, deleted too</w:t></w:r></w:del>",
        f"<w:sdt {W}><w:sdtContent><w:r><w:tab/><w:t>controlled</w:t></w:r>"
        "</w:sdtContent></w:sdt>",
    ):
        paragraph._p.append(docx.oxml.parse_xml(xml))
    block = f"<w:sdt {W}><w:sdtContent><w:p><w:r><w:t>first</w:t></w:r></w:p>"
    document.element.body.insert(
        0, docx.oxml.parse_xml(block + "</w:sdtContent></w:sdt>")
    )
    text = office.read_docx(_saved(document)).text
    assert text == "first\n\nplain, inserted\tcontrolled"


NOTE_REFERENCE = "<w:r {}><w:footnoteReference w:id='2'/></w:r>"
BOX = (
    "<w:txbxContent><w:p><w:r><w:t>in a {}</w:t></w:r></w:p><w:tbl><w:tblPr/>"
    "<w:tblGrid/><w:tr><w:tc><w:p><w:r><w:t>boxed cell</w:t></w:r></w:p></w:tc></w:tr>"
    "</w:tbl></w:txbxContent>"
)


def _with_notes(document, kind: str, notes: str) -> None:
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part

    types = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    content = f"<w:{kind} {W}>{notes}</w:{kind}>".encode()
    form = f"application/vnd.openxmlformats-officedocument.wordprocessingml.{kind}+xml"
    place, package = PackURI(f"/word/{kind}.xml"), document.part.package
    document.part.relate_to(Part(place, form, content, package), f"{types}/{kind}")


def test_word_files_give_notes_behind_the_block_that_refers_to_them() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    paragraph = document.add_paragraph("claimed")
    reference = NOTE_REFERENCE.format(W)
    paragraph._p.append(docx.oxml.parse_xml(reference))
    document.add_paragraph("later")
    cell = document.add_table(1, 1).cell(0, 0)
    cell.text = "figure"
    in_cell = reference.replace("footnote", "endnote").replace("'2'", "'1'")
    cell.paragraphs[0]._p.append(docx.oxml.parse_xml(in_cell))
    gone = f"<w:del {W} w:id='1'>{NOTE_REFERENCE.format('')}</w:del>"
    document.add_paragraph("end")._p.append(docx.oxml.parse_xml(gone))
    said = "<w:p><w:r><w:footnoteRef/><w:t> proved by {}</w:t></w:r></w:p>"
    separator = f"<w:footnote w:id='0' w:type='separator'>{said}</w:footnote>"
    unused = f"<w:footnote w:id='3'>{said.format('nobody')}</w:footnote>"
    notes = f"<w:footnote w:id='2'>{said.format('trial') * 2}</w:footnote>"
    _with_notes(document, "footnotes", separator + notes + unused)
    endnote = f"<w:endnote w:id='1'>{said.format('count')}</w:endnote>"
    _with_notes(document, "endnotes", endnote)
    text = office.read_docx(_saved(document)).text
    assert text == (
        "claimed[^2]\n\n[^2]: proved by trial proved by trial\n\nlater\n\n"
        "| figure[^e1] |\n\n[^e1]: proved by count\n\nend"
    )


def test_word_files_give_text_boxes_once_and_formulas() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    drawn = f"<w:drawing><shape>{BOX.format('shape')}</shape></w:drawing>"
    older = f"<w:pict><box>{BOX.format('shape')}</box></w:pict>"
    both = (
        "<mc:AlternateContent xmlns:mc='http://schemas.openxmlformats.org/"
        f"markup-compatibility/2006'><mc:Choice>{drawn}</mc:Choice>"
        f"<mc:Fallback>{older}</mc:Fallback></mc:AlternateContent>"
    )
    formula = (
        "<m:oMath xmlns:m='http://schemas.openxmlformats.org/officeDocument/2006/math'>"
        "<m:r><m:t>E=m</m:t></m:r><m:sSup><m:e><m:r><m:t>c</m:t></m:r></m:e><m:sup>"
        "<m:r><m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath>"
    )
    paragraph = document.add_paragraph("as in ")
    for xml in (formula, f"<w:r {W}>{both}</w:r>"):
        paragraph._p.append(docx.oxml.parse_xml(xml))
    old = document.add_paragraph("before")._p
    old.append(docx.oxml.parse_xml(f"<w:r {W}>{older.replace('shape', 'frame')}</w:r>"))
    text = office.read_docx(_saved(document)).text
    assert text == (
        "as in E=mc^2\n\nin a shape\n\n| boxed cell |\n\nbefore\n\nin a frame\n\n"
        "| boxed cell |"
    )


M = "http://schemas.openxmlformats.org/officeDocument/2006/math"


def _typed(inner: str) -> str:
    word = pytest.importorskip("docx.oxml")
    with_runs = re.sub(r"`([^`]*)`", r"<m:r><m:t>\1</m:t></m:r>", inner)
    xml = f"<m:oMath xmlns:m='{M}' {W}>{with_runs}</m:oMath>"
    return formula.line(word.parse_xml(xml))


@pytest.mark.parametrize(
    ("inner", "typed"),
    [
        ("<m:f><m:num>`1`</m:num><m:den>`2`</m:den></m:f>", "1/2"),
        ("<m:f><m:num>`a+b`</m:num><m:den>`12`</m:den></m:f>", "(a+b)/12"),
        ("`f`<m:d><m:e>`x`</m:e></m:d>", "f(x)"),
        (
            "<m:d><m:dPr><m:begChr m:val='['/><m:sepChr m:val=','/><m:endChr "
            "m:val=']'/></m:dPr><m:e>`x`</m:e><m:e>`y`</m:e></m:d>",
            "[x,y]",
        ),
        (
            "<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr><m:sub>`k=1`</m:sub>"
            "<m:sup>`n`</m:sup><m:e>`k`</m:e></m:nary>",
            "∑_(k=1)^n k",
        ),
        ("<m:nary><m:sub/><m:sup/><m:e>`f`</m:e></m:nary>", "∫ f"),
        ("<m:rad><m:deg>`3`</m:deg><m:e>`x+1`</m:e></m:rad>", "3√(x+1)"),
        ("<m:sSub><m:e>`a`</m:e><m:sub>`i`</m:sub></m:sSub>", "a_i"),
        (
            "<m:sSubSup><m:e>`a`</m:e><m:sub>`i`</m:sub><m:sup>`2`</m:sup></m:sSubSup>",
            "a_i^2",
        ),
        ("<m:func><m:fName>`sin`</m:fName><m:e>`x`</m:e></m:func>", "sin x"),
        ("<m:limLow><m:e>`lim`</m:e><m:lim>`x→0`</m:lim></m:limLow>", "lim_(x→0)"),
        ("<m:acc><m:e>`v`</m:e></m:acc>", "v"),
        ("`x`<w:del w:id='1'>`old`</w:del><w:ins w:id='2'>`new`</w:ins>", "xnew"),
        ("`x`<m:r><w:rPr><w:del w:id='1'/></w:rPr><m:t>old</m:t></m:r>", "x"),
    ],
)
def test_formulas_are_lines_as_one_types_them(inner: str, typed: str) -> None:
    assert _typed(inner) == typed


def test_a_heading_has_no_mark_and_a_note_referred_to_twice_stands_once() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    heading = document.add_heading("Head", 2)
    heading._p.append(docx.oxml.parse_xml(NOTE_REFERENCE.format(W)))
    heading._p.append(docx.oxml.parse_xml(NOTE_REFERENCE.format(W)))
    box = BOX.format("note").replace("w:txbxContent>", f"w:txbxContent {W}>", 1)
    note = (
        "<w:footnote w:id='2'><w:p><w:r><w:t>said</w:t></w:r><w:r><w:pict>"
        f"<box>{box}</box></w:pict></w:r></w:p></w:footnote>"
    )
    _with_notes(document, "footnotes", note)
    text = office.read_docx(_saved(document)).text
    assert text == "## Head\n\n[^2]: said in a note boxed cell"


def test_a_note_of_a_text_box_stands_in_the_box() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    inner = f"<w:p><w:r><w:t>boxed</w:t></w:r>{NOTE_REFERENCE.format('')}</w:p>"
    box = f"<w:r {W}><w:pict><w:txbxContent>{inner}</w:txbxContent></w:pict></w:r>"
    document.add_paragraph("around")._p.append(docx.oxml.parse_xml(box))
    said = "<w:p><w:r><w:t>said</w:t></w:r></w:p>"
    _with_notes(document, "footnotes", f"<w:footnote w:id='2'>{said}</w:footnote>")
    text = office.read_docx(_saved(document)).text
    assert text == "around\n\nboxed[^2]\n\n[^2]: said"


@pytest.mark.parametrize("notes", [b"", b"<broken", b"<a/>"])
def test_notes_that_cannot_be_read_are_told_and_the_text_is_kept(notes: bytes) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_paragraph("whole")
    _with_notes(document, "footnotes", "")
    for relation in document.part.rels.values():
        if relation.reltype.endswith("/footnotes"):
            relation.target_part._blob = notes
    read = office.read_docx(_saved(document))
    assert read.text == "whole"
    told = [one for one in read.warnings if "footnotes cannot be read" in one]
    assert len(told) == (0 if notes == b"<a/>" else 1)


def test_word_files_give_the_first_alternative_of_text_and_formulas_alone() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    compatible = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    emoji = (
        f"<w:r {W}><mc:AlternateContent xmlns:mc='{compatible}'><mc:Choice>"
        "<w:t>\N{GRINNING FACE}</w:t></mc:Choice><mc:Fallback><w:t>:)</w:t>"
        "</mc:Fallback></mc:AlternateContent></w:r>"
    )
    document.add_paragraph("hi ")._p.append(docx.oxml.parse_xml(emoji))
    alone = f"<m:oMathPara xmlns:m='{M}'><m:oMath><m:r><m:t>a=b</m:t></m:r></m:oMath>"
    document.element.body.insert(1, docx.oxml.parse_xml(alone + "</m:oMathPara>"))
    text = office.read_docx(_saved(document)).text
    assert text == "hi \N{GRINNING FACE}\n\na=b"


def test_word_tables_give_nested_ones_and_merged_cells_once() -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    table = document.add_table(3, 2)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(1, 0).merge(table.cell(2, 0)).text = "tall"
    table.cell(1, 1).text = "outer"
    nested = table.cell(1, 1).add_table(1, 2)
    nested.cell(0, 0).text, nested.cell(0, 1).text = "inner", "last"
    table.cell(2, 1).text = "end"
    text = office.read_docx(_saved(document)).text
    assert text == "| wide |  |\n| tall | outer inner last |\n|  | end |"
