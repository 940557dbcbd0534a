"""A judged corpus as chunk files, for the same pipeline as any other collection.

Each chunk carries its document's id as `filename`, so that the bundle says of itself
which document a row belongs to, and rows stand in the order of these ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..chunking.document import ChunkSettings, chunk_document
from ..chunking.formats import format_of
from ..chunking.sources import Unreadable
from ..chunking.tokens import TokenCounter
from ..chunking.writer import chunk_file, write_whole
from ..config import PipelineConfig
from ..errors import InputError, UsageError
from ..models.manager import ModelSource
from .beir import Document

Treatment = Literal["whole", "chunked"]
Record = dict[str, Any]

CHUNK_LIMIT = 512
"""Most tokens of a chunk where every model's window holds more."""

_FILE_CHARACTERS = 32 * 2**20  # of text in one chunk file, far below what one may hold


def whole(documents: Iterable[Document]) -> Iterator[Record]:
    """Yield one chunk a document: the title, a space and the text."""
    for document in documents:
        yield {
            "text": f"{document.title} {document.text}"
            if document.title
            else document.text,
            "metadata": {
                "filename": document.name,
                "title": document.title,
                "heading_text": document.title,
            },
        }


class DocumentChunker:
    """Cuts documents as the chunk command cuts files of one format."""

    def __init__(
        self, config: PipelineConfig, models: ModelSource, extension: str
    ) -> None:
        """Take the limit and the tokenizer from the roster.

        Raises:
            UsageError: no document format has this extension.
            ModelNotAvailable: the tokenizer cannot be had.
        """
        if format_of(PurePosixPath(f"a.{extension}")) is None:
            raise UsageError(
                f"No document format has the extension '{extension}'.",
                cure="Use for example txt, md or py.",
            )
        self._extension = extension
        self._settings = ChunkSettings(config.primary.name, chunk_limit(config))
        self._counter = TokenCounter(
            models.tokenizer(config.primary).backend,
            self._settings.max_tokens,
            config.primary.document_prefix,
        )

    def __call__(self, documents: Iterable[Document]) -> Iterator[Record]:
        """Yield the chunks of each document, in order.

        Raises:
            InputError: a document cannot be chunked.
        """
        for number, document in enumerate(documents):
            source = PurePosixPath("documents", f"{number}.{self._extension}")
            try:
                made = chunk_document(
                    source, self._source(document), self._settings, self._counter
                )
            except Unreadable as error:
                raise InputError(
                    f"The document '{document.name}' cannot be chunked: {error.detail}."
                ) from error
            for record in made.records:
                metadata = {**record["metadata"], "filename": document.name}
                yield {**record, "metadata": metadata}

    def _source(self, document: Document) -> bytes:
        """Return the document as a file: the title above the text."""
        mark = "# " if self._extension == "md" else ""
        title = f"{mark}{document.title}\n\n" if document.title else ""
        return f"{title}{document.text}".encode()


def chunk_limit(config: PipelineConfig) -> int:
    """Return the most tokens of a chunk: what the smallest window of the roster holds.

    BM25 reads texts of any length.
    """
    windows = [model.max_tokens for model in config.dense]
    windows += [m.max_tokens for m in config.active_sparse if m.kind != "bm25"]
    return min(CHUNK_LIMIT, *windows)


def write_chunk_files(folder: Path, records: Iterable[Record]) -> int:
    """Write chunk files into a collection's folder; return how many chunks.

    Files left by an earlier run are removed. The same records give the same files.

    Raises:
        OutputError: writing failed.
    """
    written: set[Path] = set()
    chunks = 0
    for number, part in enumerate(_parts(records)):
        path = folder / f"documents-{number:05d}_chunks.json"
        write_whole(path, chunk_file(part))
        written.add(path)
        chunks += len(part)
    for path in set(folder.glob("*_chunks.json")) - written:
        path.unlink()
    return chunks


def _parts(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    part: list[Record] = []
    characters = 0
    for record in records:
        part.append(record)
        characters += len(record["text"])
        if characters >= _FILE_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part
