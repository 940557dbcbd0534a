"""One source file to chunk records: `text` and the metadata that filters rely on."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from ..errors import MissingExtra
from .formats import Format, format_of
from .sources import MAX_SOURCE_BYTES, Unreadable
from .splitter import Span, split
from .structure import CODE, LIST, PROSE, TABLE, Structure
from .tokens import TokenCounter

CHUNKER_VERSION = "v5.3"
PATH_SEPARATOR = " > "

_FORMULA = re.compile(r"\$\$|\\\(|\\\[|\\begin\{(?:equation|align|math)")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """What chunks depend on besides the source. `tokenizer` is a model key."""

    tokenizer: str
    max_tokens: int
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """`records` is empty for a blank source. `tokens` counts special tokens too."""

    records: tuple[Record, ...]
    tokens: int
    warnings: tuple[str, ...]


def chunk_document(
    source: PurePosixPath,
    data: bytes,
    settings: ChunkSettings,
    counter: TokenCounter,
) -> ChunkedDocument:
    """Return the chunks of one file. `source` is its path, collection first.

    Raises:
        Unreadable: no document of ours, binary, damaged, too large, or in need of an
            extra that is not installed.
    """
    kind = format_of(source)
    if kind is None:
        raise Unreadable("unknown_format", "no document format has this extension")
    if len(data) > MAX_SOURCE_BYTES:
        raise Unreadable(
            "too_large", f"{len(data)} bytes; split it below {MAX_SOURCE_BYTES}"
        )
    with _unusable_if_failing(kind):
        read = kind.read(data)
    if not read.text.strip():
        return ChunkedDocument((), 0, (*read.warnings, "empty: no text in it"))
    with _unusable_if_failing(kind):
        structure = kind.find(read.text)
    spans = split(read.text, structure, counter, settings.overlap)
    describe = _Describer(source, data, kind, settings, structure)
    records = tuple(
        describe.record(index, read.text, span) for index, span in enumerate(spans)
    )
    return ChunkedDocument(records, sum(span.tokens for span in spans), read.warnings)


@contextmanager
def _unusable_if_failing(kind: Format) -> Iterator[None]:
    """Set the file aside whatever its reader or finder raises.

    Raises:
        Unreadable: what was raised, if not Unreadable already.
        MemoryError: there is too little, which is no fault of the file.
    """
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except MissingExtra as error:
        raise Unreadable("missing_extra", str(error)) from error
    except Exception as error:
        # No reader foresees every file; one of them may not end a run over thousands.
        detail = f"the {kind.name} file cannot be read ({type(error).__name__})"
        raise Unreadable("damaged", detail) from error


class _Describer:
    """The metadata of one file's chunks."""

    def __init__(
        self,
        source: PurePosixPath,
        data: bytes,
        kind: Format,
        settings: ChunkSettings,
        structure: Structure,
    ) -> None:
        path = source.as_posix()
        self._language = kind.language
        self._sections = structure.sections
        self._section_starts = [start for start, _ in structure.sections]
        self._blocks = structure.blocks
        self._block_starts = [start for start, _ in structure.blocks]
        self._of_file: Record = {
            "document_id": hashlib.sha256(path.encode()).hexdigest()[:12],
            "document_name": source.stem,
            "document_digest": hashlib.sha256(data).hexdigest(),
            "filename": source.name,
            "source_path": path,
            "source_file": path,
            "file_extension": source.suffix.lower(),
            "file_format": kind.name,
            "collection_name": source.parts[0],
            "chunker_version": CHUNKER_VERSION,
            "tokenizer": settings.tokenizer,
            "max_tokens": settings.max_tokens,
            "overlap_tokens": settings.overlap,
        }

    def record(self, index: int, text: str, span: Span) -> Record:
        """Return the chunk `text[start:end]` as it stands in the chunk file."""
        chunk = text[span.start : span.end]
        digest = hashlib.sha256(chunk.encode("utf-8")).hexdigest()
        path, headings = self._headings(span)
        shares = self._shares(text, span)
        metadata: Record = {
            **self._of_file,
            "chunk_index": index,
            "section_path": list(path),
            "hierarchy_path": PATH_SEPARATOR.join(path),
            "heading_text": path[-1] if path else "",
            "headings": headings,
            "token_count": span.tokens,
            "char_count": len(chunk),
            "start_char": span.start,
            "end_char": span.end,
            "content_type": shares.most_common(1)[0][0],
            "content_flags": _flags(shares, chunk),
            "content_digest": digest,
            "chunk_hash": digest[:16],
        }
        if self._language is not None:
            metadata["language"] = self._language
            metadata["symbol"] = ".".join(path)
        return {"text": chunk, "metadata": metadata}

    def _headings(self, span: Span) -> tuple[Sequence[str], list[str]]:
        """Return the path that the chunk begins under, and the titles it holds."""
        first = bisect_right(self._section_starts, span.start)
        last = bisect_right(self._section_starts, span.end - 1)
        path = self._sections[first - 1][1] if first else ()
        seen = [path for _, path in self._sections[max(0, first - 1) : last]]
        begun = [
            now
            for before, now in pairwise([(), *seen])
            if now != before[: len(now)]  # else a symbol has ended: no new one begins
        ]
        return path, list(dict.fromkeys(path[-1] for path in begun))

    def _shares(self, text: str, span: Span) -> Counter[str]:
        """Count the characters of each content type, blanks left out."""
        first = bisect_right(self._block_starts, span.start)
        last = bisect_right(self._block_starts, span.end - 1)
        bounds = [span.start, *self._block_starts[first:last], span.end]
        shares: Counter[str] = Counter()
        for number, (_, kind) in enumerate(self._blocks[first - 1 : last]):
            stretch = text[bounds[number] : bounds[number + 1]]
            shares[kind] += len("".join(stretch.split()))
        return shares


def _flags(shares: Counter[str], chunk: str) -> dict[str, bool]:
    return {
        "has_prose": shares[PROSE] > 0,
        "has_code_block": shares[CODE] > 0,
        "has_table": shares[TABLE] > 0,
        "has_list": shares[LIST] > 0,
        "has_formula": _FORMULA.search(chunk) is not None,
    }
