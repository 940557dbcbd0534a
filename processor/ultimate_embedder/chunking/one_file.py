"""One file of the input to one chunk file, in this process or in a worker."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from ..encoders.tokenizer import HubTokenizer
from ..intake.chunks import MAX_CHUNK_FILE_BYTES
from .discovery import Document
from .document import CHUNKER_VERSION, ChunkedDocument, ChunkSettings, chunk_document
from .sources import MAX_SOURCE_BYTES, Unreadable
from .state import Entry
from .tokens import TokenCounter
from .writer import chunk_file, write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkJob:
    """What to chunk, how, and where to. `tokenizer_path` holds a tokenizer.json."""

    input_dir: Path
    output_dir: Path
    settings: ChunkSettings
    tokenizer_path: Path
    prompt: str = ""
    collections: tuple[str, ...] = ()  # empty: all that are found
    workers: int = 0  # processes, 0: one per usable core
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One file: `entry` when it is usable, else the reason why not."""

    source: str
    entry: Entry | None = None
    unchanged: bool = False
    reason: str = ""
    detail: str = ""
    seconds: float = 0.0


class FileChunker:
    """Chunks one file after another, in this process or in a worker."""

    def __init__(self, job: ChunkJob) -> None:
        """Load the tokenizer.

        Raises:
            UsageError: the limit or the overlap leaves too little for text.
        """
        tokenizer = HubTokenizer(
            job.tokenizer_path, job.settings.max_tokens, document_prefix=job.prompt
        )
        self._job = job
        self._counter = TokenCounter(
            tokenizer.backend, job.settings.max_tokens, job.prompt
        )
        self._counter.check_overlap(job.settings.overlap)
        parts = (CHUNKER_VERSION, tokenizer.fingerprint, repr(job.settings))
        self._settings = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def __call__(self, document: Document, before: Entry | None) -> Outcome:
        """Chunk a file and write its chunk file, unless that is there from `before`.

        Raises:
            OutputError: the chunk file cannot be written.
        """
        began = time.perf_counter()
        source, output = document.path.as_posix(), document.output.as_posix()
        try:
            data = _read(self._job.input_dir / document.path)
            digest = hashlib.sha256(data).hexdigest()
            root = self._job.output_dir
            if before is not None and before.holds(
                root, digest, self._settings, output
            ):
                return Outcome(source, before, unchanged=True)
            made = chunk_document(
                document.path, data, self._job.settings, self._counter
            )
            content = _content(made)
        except Unreadable as error:
            return Outcome(source, reason=error.reason, detail=error.detail)
        if made.records:
            write_whole(root / output, content)
        entry = Entry(
            digest=digest,
            settings=self._settings,
            output=output if made.records else None,
            output_bytes=len(content),
            chunks=len(made.records),
            tokens=made.tokens,
            warnings=made.warnings,
        )
        return Outcome(source, entry, seconds=time.perf_counter() - began)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_SOURCE_BYTES:
            raise Unreadable(
                "too_large", f"{size} bytes; split it below {MAX_SOURCE_BYTES}"
            )
        return path.read_bytes()
    except OSError as error:
        raise Unreadable("unreadable", str(error.strerror)) from error


def _content(made: ChunkedDocument) -> bytes:
    content = chunk_file(made.records) if made.records else b""
    if len(content) > MAX_CHUNK_FILE_BYTES:
        raise Unreadable("too_large", "its chunk file could not be read back; split it")
    return content
