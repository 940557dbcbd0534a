"""Lines by number, whatever the file looks like."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.search import json_lines
from processor.ultimate_embedder.search.json_lines import JsonLines


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20)), max_size=12),
    st.booleans(),
    st.integers(1, 40),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_line_is_found_by_its_number(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    records: list[dict[str, str]],
    newline_at_the_end: bool,
    block: int,
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    content = b"\n".join(orjson.dumps(record) for record in records)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content + b"\n" * (newline_at_the_end and bool(records)))
    lines = JsonLines(path)
    assert len(lines) == len(records)
    assert list(lines) == records
    for number in (-1, len(records)):
        with pytest.raises(IndexError):
            lines[number]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n')
    with pytest.raises(BundleError, match=r"Line 2 of lines\.jsonl"):
        JsonLines(path)[1]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="absent"):
        JsonLines(tmp_path / "absent.jsonl")
