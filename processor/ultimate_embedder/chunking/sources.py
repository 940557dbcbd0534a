"""Bytes of a file to text.

Decisions, in order: a byte order mark names the encoding (UTF-8, UTF-16, UTF-32);
else valid UTF-8 is UTF-8; else, where most bytes above 127 still form UTF-8 sequences,
it is damaged UTF-8 and each bad byte becomes U+FFFD; else it is Windows-1252, the
encoding of older Western files, unless the file declares another one that fits. The
last two give a warning with the number of bytes replaced. A file with more than one
control byte in fifty, or invalid UTF-8 with a NUL, is binary and refused.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from .structure import Structure

MAX_SOURCE_BYTES = 64 * 2**20
"""Larger files are refused: splitting takes memory of some thirty times their size."""

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"
_SURROGATE = re.compile("[\ud800-\udfff]")
_MEANING_WINDOWS_1252 = ("iso8859-1", "ascii")
"""Browsers take these declarations for Windows-1252, and so do authors."""
_HIGH = bytes(range(128, 256))


class Unreadable(Exception):
    """A source that is set aside; `reason` is a short code, `detail` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class SourceText:
    """The text that character spans refer to, and what had to be decided for it."""

    text: str
    warnings: tuple[str, ...] = field(default=())


Reader = Callable[[bytes], SourceText]
Finder = Callable[[str], Structure]


def without_surrogates(text: str, warnings: tuple[str, ...] = ()) -> SourceText:
    """Return the text with U+FFFD for each lone surrogate, which UTF-8 cannot hold.

    A warning says how many there were.
    """
    clean, found = _SURROGATE.subn("\ufffd", text)
    if found:
        warnings = (*warnings, f"lone surrogates: {found} replaced by U+FFFD")
    return SourceText(clean, warnings)


def decode(data: bytes, declared: str = "") -> SourceText:
    """Return the text of a file by the rules at the top of this module.

    `declared` is the encoding that the file itself names, if it does.

    Raises:
        Unreadable: `binary`, or `bad_encoding` when the text breaks its own mark.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _decode_marked(data, encoding)
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if controls * 50 > len(data):
        raise Unreadable("binary", "the content is binary, not text")
    try:
        return SourceText(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass  # what it is instead is decided below
    if b"\0" in data:
        raise Unreadable("binary", "the content is binary, not text")
    return _decode_damaged(data, declared)


def _decode_marked(data: bytes, encoding: str) -> SourceText:
    try:
        return SourceText(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise Unreadable(
            "bad_encoding",
            f"the byte order mark says {encoding}, but byte {error.start} is not",
        ) from error


def _decode_damaged(data: bytes, declared: str) -> SourceText:
    kept = data.decode("utf-8", errors="ignore").encode("utf-8")
    high = len(data) - len(data.translate(None, _HIGH))
    high_kept = len(kept) - len(kept.translate(None, _HIGH))
    if 2 * high_kept > high:
        text = data.decode("utf-8", errors="replace")
        return SourceText(
            text,
            (f"invalid UTF-8: {high - high_kept} bytes replaced by U+FFFD",),
        )
    if (as_declared := _decode_declared(data, declared)) is not None:
        return SourceText(as_declared, (f"not UTF-8: read as {declared}, as declared",))
    text = data.decode("cp1252", errors="replace")
    warning = "not UTF-8: read as Windows-1252"
    if lost := text.count("\ufffd"):
        warning += f", {lost} bytes replaced by U+FFFD"
    return SourceText(text, (warning,))


def _decode_declared(data: bytes, declared: str) -> str | None:
    """Return the text by the encoding declared, None where that does not fit."""
    try:
        name = codecs.lookup(declared).name
        # No file of UTF-16 comes here, and Python's escapes are no encoding of files.
        if name in _MEANING_WINDOWS_1252 or name.startswith(("utf", "unicode", "raw")):
            return None
        return data.decode(name)
    except (LookupError, ValueError):
        return None
