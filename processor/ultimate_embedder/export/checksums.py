"""Files that are hashed while they are written, and the `SHA256SUMS` list.

The list is what GNU `sha256sum` writes and `sha256sum -c` reads, inside the bundle
folder: a name with a backslash or a line break is escaped and its line starts with a
backslash.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from ..errors import BundleError

_BLOCK_BYTES = 2**20
_LINE = re.compile(r"(\\?)([0-9a-f]{64})[ ][ *](.+)", re.DOTALL)
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {escaped: plain for plain, escaped in _ESCAPES.items()}


class HashedFile:
    """A new file: hashed as it is written, on the disk (fsync) when the block ends.

    Blocks are hashed and written by a thread of its own while the next one is made;
    both let go of Python's lock.
    """

    def __init__(self, path: Path) -> None:
        """Create `path`, or empty it. Raises `OSError`, here and in each method."""
        self._stream = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="export")
        self._under_way: Future[None] | None = None
        self.bytes_written = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`, not to be changed later, and return its length in bytes."""
        if self._stream.closed:
            raise ValueError("the file is closed")
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._held.append(data)
        self._held_bytes += size
        self.bytes_written += size
        if self._held_bytes >= _BLOCK_BYTES:
            self._hand_over()
        return size

    @property
    def sha256(self) -> str:
        """The digest of the closed file, in hex."""
        return self._digest.hexdigest()

    def _hand_over(self) -> None:
        """Have what is held written, once the block before is; one at a time."""
        self._wait()
        block = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._under_way = self._thread.submit(self._put, block)

    def _put(self, block: bytes) -> None:
        self._digest.update(block)
        left = memoryview(block)
        while left:
            left = left[self._stream.write(left) :]

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stream, self._thread:
            if kind is None:
                self._hand_over()
                self._wait()
                os.fsync(self._stream.fileno())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def format_sums(entries: Iterable[tuple[str, str]]) -> bytes:
    """Return the list for (path, digest) pairs, sorted by path, bytewise."""
    lines = []
    for path, digest in sorted(entries, key=lambda entry: os.fsencode(entry[0])):
        escaped = "".join(_ESCAPES.get(letter, letter) for letter in path)
        mark = "\\" if escaped != path else ""
        lines.append(f"{mark}{digest}  {escaped}\n")
    return "".join(lines).encode()


def parse_sums(content: bytes) -> dict[str, str]:
    """Return {path: digest} of a list.

    Raises:
        BundleError: a line is no entry, or a path stands twice; names the line.
    """
    sums: dict[str, str] = {}
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BundleError(f"The list of sums is no UTF-8 at byte {error.start}.") from (
            error
        )
    if lines.pop():
        raise BundleError(f"The list of sums breaks off in line {len(lines) + 1}.")
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise BundleError(f"Line {number} of the list of sums is no entry.")
        mark, digest, path = match.groups()
        if mark:
            path = re.sub(r"\\[\\nr]", lambda found: _UNESCAPES[found[0]], path)
        if path in sums:
            raise BundleError(f"Line {number} of the list of sums repeats a path.")
        sums[path] = digest
    return sums
