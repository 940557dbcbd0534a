"""Tables and formats: control characters only where a terminal shows them."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.cli.output import (
    Sheet,
    choose_format,
    plain_text,
    show_sheet,
    stdout_format,
)

SHEET = Sheet(
    title="Stages",
    columns=("stage", "items"),
    rows=(("dense", "12"), ("sparse [bold]", "3,456")),
    numbers=("items",),
)


@pytest.mark.parametrize(
    ("asked", "is_terminal", "in_notebook", "style"),
    [
        (None, True, False, "rich"),
        (None, False, False, "plain"),
        (None, True, True, "plain"),
        ("rich", True, True, "rich"),
        ("rich", False, False, "plain"),
        ("plain", True, False, "plain"),
        ("json", True, False, "json"),
        ("json", False, True, "json"),
    ],
)
def test_rich_needs_a_terminal_and_gives_way_to_a_notebook(
    asked: str | None, is_terminal: bool, in_notebook: bool, style: str
) -> None:
    chosen = choose_format(asked, is_terminal=is_terminal, notebook=in_notebook)
    assert chosen == style


@pytest.mark.parametrize("notebook", [True, False])
def test_a_terminal_that_a_notebook_opened_gets_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, notebook: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    if notebook:
        monkeypatch.setenv("JPY_PARENT_PID", "7")
    assert stdout_format() == ("plain" if notebook else "rich")


def test_plain_columns_line_up_and_numbers_stand_right() -> None:
    assert plain_text(SHEET) == (
        "Stages\n"
        "  stage          items\n"
        "  dense             12\n"
        "  sparse [bold]  3,456\n"
    )


@given(st.lists(st.tuples(st.text(), st.text())))
def test_plain_text_holds_no_control_characters(rows: list[tuple[str, str]]) -> None:
    shown = plain_text(Sheet(title="t", columns=("a", "b"), rows=tuple(rows)))
    assert len(shown.split("\n")) == len(rows) + 3
    assert all(char == "\n" or char.isprintable() or ord(char) > 126 for char in shown)
    assert "\x1b" not in shown


def test_a_sheet_without_rows_shows_its_columns() -> None:
    sheet = Sheet(title="Empty", columns=("a", "b"), rows=())
    assert plain_text(sheet) == "Empty\n  a  b\n"


def test_json_shows_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    show_sheet(SHEET, style="json")
    assert capsys.readouterr() == ("", "")


def test_plain_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    show_sheet(SHEET, style="plain")
    assert capsys.readouterr() == (plain_text(SHEET), "")


def test_rich_takes_brackets_in_a_cell_as_they_stand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_sheet(SHEET, style="rich")
    assert "sparse [bold]" in capsys.readouterr().out
