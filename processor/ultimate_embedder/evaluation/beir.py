"""Folders of judged collections as BEIR lays them out.

corpus.jsonl      {"_id", "title", "text"} a line
queries.jsonl     {"_id", "text"} a line
qrels/test.tsv    query-id, corpus-id, score
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from .judgements import Judgements, read_judgements

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"

_CURE = 'A line: {"_id", "title", "text"}.'


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a judged collection. The title may be empty."""

    name: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class BeirFolder:
    """One judged collection on disk."""

    name: str
    path: Path
    split: str

    @property
    def queries(self) -> Path:
        """The file of queries."""
        return self.path / QUERIES

    def judgements(self) -> Judgements:
        """Return the judgements of the split; see `read_judgements`."""
        return read_judgements(self.path / "qrels" / f"{self.split}.tsv")

    def documents(self) -> list[Document]:
        """Return the documents in the bytewise order of their ids.

        Raises:
            UsageError: the corpus cannot be read.
            InputError: naming a line and what is wrong with it.
        """
        found: dict[str, Document] = {}
        for number, line in _lines(self.path / CORPUS):
            document = _document(line, f"{self.path / CORPUS}, line {number}")
            if document.name in found:
                raise InputError(
                    f"{self.path / CORPUS}, line {number}: a second document has the "
                    f"id '{document.name}'.",
                    cure="Keep one of them.",
                )
            found[document.name] = document
        if not found:
            raise InputError(f"{self.path / CORPUS} holds no document.", cure=_CURE)
        return [found[name] for name in sorted(found, key=str.encode)]


def find_beir_folders(
    data: Path, split: str = "test", names: Sequence[str] = ()
) -> list[BeirFolder]:
    """Return the collection in a folder, or those in its folders, by name.

    Raises:
        UsageError: there is none, one that is named is missing, or one lacks its
            queries or the judgements of the split.
    """
    if not data.is_dir():
        raise UsageError(f"There is no folder {data} (--data).")
    if (data / CORPUS).is_file():
        paths = [data]
    else:
        paths = sorted(path.parent for path in data.glob(f"*/{CORPUS}"))
    found = {
        path.resolve().name: BeirFolder(path.resolve().name, path, split)
        for path in paths
    }
    if not found:
        raise UsageError(
            f"{data} holds no judged collection.",
            cure=f"It needs {CORPUS}, {QUERIES} and qrels/{split}.tsv, or folders "
            "with them.",
        )
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UsageError(
            f"{data} holds no collection {', '.join(unknown)}.",
            cure=f"Found: {', '.join(found)}.",
        )
    chosen = [found[name] for name in dict.fromkeys(names)] or list(found.values())
    for folder in chosen:
        _require_complete(folder)
    return chosen


def _require_complete(folder: BeirFolder) -> None:
    if not folder.queries.is_file():
        raise UsageError(f"{folder.path} lacks {QUERIES}.")
    splits = sorted(path.stem for path in (folder.path / "qrels").glob("*.tsv"))
    if folder.split not in splits:
        raise UsageError(
            f"{folder.path} lacks qrels/{folder.split}.tsv.",
            cure=f"There are the splits: {', '.join(splits) or 'none'} (--split).",
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def _document(line: bytes, place: str) -> Document:
    try:
        record: Any = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: no JSON that can be read.", cure=_CURE) from error
    if not isinstance(record, dict):
        raise InputError(f"{place}: no JSON object.", cure=_CURE)
    name, title, text = (record.get(key) for key in ("_id", "title", "text"))
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise InputError(
            f'{place}: "_id" must be a string or a whole number.', cure=_CURE
        )
    if not isinstance(text, str) or not isinstance(title, str | None):
        raise InputError(f'{place}: "text" must be a string, "title" too.', cure=_CURE)
    if not _encodable(f"{name}{title}{text}"):
        raise InputError(f"{place}: no valid Unicode.", cure="Mend the line.")
    return Document(str(name), title or "", text)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
