"""Files that a crash left half made are made anew, and errors say what to do."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from processor.ultimate_embedder.encoders.protocols import Frame, Role, Tokenised
from processor.ultimate_embedder.errors import OutputError
from processor.ultimate_embedder.intake.token_table import TokenTable
from processor.ultimate_embedder.ledger import Ledger

TEXTS = ("one", "three", "")


class LetterTokenizer:
    """A token a letter, and one at the start."""

    fingerprint = "letters"
    backend = None

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, texts: Sequence[str], role: Role) -> Tokenised:
        self.calls += 1
        ids = tuple(np.array([0, *map(ord, t)], dtype=np.uint32) for t in texts)
        return Tokenised(ids, Frame(1, 0))


class Texts:
    text_digest = "texts"

    def __len__(self) -> int:
        return len(TEXTS)

    def text(self, row: int) -> str:
        return TEXTS[row]


def rows(table: TokenTable) -> list[list[int]]:
    return [table.row(row).tolist() for row in range(len(table))]


def test_a_finished_token_table_is_taken_up_again(tmp_path: Path) -> None:
    tokenizer = LetterTokenizer()
    first = TokenTable.build(Texts(), tokenizer, tmp_path / "t")
    again = TokenTable.build(Texts(), tokenizer, tmp_path / "t")
    assert tokenizer.calls == 1
    assert rows(again) == rows(first) == [[0, *map(ord, text)] for text in TEXTS]


def test_token_ids_of_another_version_of_the_library_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, told = LetterTokenizer(), list[tuple[str, bool]]()
    TokenTable.build(Texts(), tokenizer, tmp_path / "t")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.0")
    TokenTable.build(
        Texts(), tokenizer, tmp_path / "t", tell=lambda *why: told.append(why)
    )
    assert tokenizer.calls == 2
    assert told == [("libraries changed", False)]


@pytest.mark.parametrize("mark", ["", '{"texts": "te', "[]", None])
def test_a_token_table_whose_mark_is_cut_short_is_made_anew(
    tmp_path: Path, mark: str | None
) -> None:
    tokenizer = LetterTokenizer()
    expected = rows(TokenTable.build(Texts(), tokenizer, tmp_path / "t"))
    (tmp_path / "t" / "ids.u32").write_bytes(b"")
    if mark is None:
        (tmp_path / "t" / "done.json").unlink()
    else:
        (tmp_path / "t" / "done.json").write_text(mark)
    assert rows(TokenTable.build(Texts(), tokenizer, tmp_path / "t")) == expected
    assert tokenizer.calls == 2


@pytest.mark.parametrize("name", ["ids.u32", "offsets.npy", "full_lengths.npy"])
def test_a_token_table_cut_short_since_is_made_anew(tmp_path: Path, name: str) -> None:
    tokenizer = LetterTokenizer()
    expected = rows(TokenTable.build(Texts(), tokenizer, tmp_path / "t"))
    file = tmp_path / "t" / name
    file.write_bytes(file.read_bytes()[:5])
    assert rows(TokenTable.build(Texts(), tokenizer, tmp_path / "t")) == expected
    assert tokenizer.calls == 2


def test_a_damaged_ledger_is_one_line_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(OutputError, match=r"is damaged: .*--fresh") as caught:
        Ledger(path)
    assert caught.value.exit_code == 3


def test_a_ledger_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(OutputError, match=r"cannot be used: .*permissions"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_peak_is_this_process_own_not_that_of_the_one_that_started_it() -> None:
    held = np.ones(40_000_000)  # 320 MB, resident
    script = (
        "from processor.ultimate_embedder.hardware import peak_memory_bytes;"
        "print(peak_memory_bytes())"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    assert 1e6 < int(done.stdout) < held.nbytes
