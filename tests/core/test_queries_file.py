"""Queries from a file: what is accepted, and one clear line for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.intake.queries import (
    MAX_QUERY_CHARACTERS,
    read_queries,
)
from processor.ultimate_embedder.records import Query


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queries.jsonl"


def test_queries_keep_their_order_and_blank_lines_are_no_queries(file: Path) -> None:
    file.write_text('{"_id": "b", "text": "one"}\r\n\n{"_id": 7, "text": "two"}')
    assert read_queries(file) == [Query("b", "one"), Query("7", "two")]


def test_a_byte_order_mark_is_no_part_of_the_first_query(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"_id": "1", "text": "one"}\n')
    assert read_queries(file) == [Query("1", "one")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_a_line_feed_ends_a_query(file: Path, separator: str) -> None:
    file.write_text(f'{{"_id": "1", "text": "a{separator}b"}}\n', encoding="utf-8")
    assert read_queries(file) == [Query("1", f"a{separator}b")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[" * 100_000, "line 2: no JSON"),
        ('{"_id": ' + "9" * 5000 + ', "text": "t"}', "line 2: no JSON"),
        ("[]", "needs an object"),
        ('{"text": "t"}', '"_id" must be a string or a whole number'),
        ('{"_id": null, "text": "t"}', '"_id" must be'),
        ('{"_id": true, "text": "t"}', '"_id" must be'),
        ('{"_id": "\\ud800", "text": "t"}', "no valid Unicode"),
        ('{"_id": "1", "text": "\\ud800"}', "no valid Unicode"),
        ('{"_id": "1"}', "missing or blank"),
        ('{"_id": "1", "text": " "}', "missing or blank"),
        (f'{{"_id": "1", "text": "{"x" * (MAX_QUERY_CHARACTERS + 1)}"}}', "the limit"),
        ('{"_id": 0, "text": "t"}', "have the id '0'"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_in_one_line(
    file: Path, line: str, message: str
) -> None:
    file.write_text(f'{{"_id": "0", "text": "good"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_queries(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_a_query_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError, match="holds no query"):
        read_queries(file)


def test_a_file_that_is_missing_or_no_utf8_is_refused(file: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_queries(file)
    file.write_bytes(b'{"_id": "1", "text": "\xff"}')
    with pytest.raises(UsageError, match="cannot be read: they are not in UTF-8"):
        read_queries(file)
