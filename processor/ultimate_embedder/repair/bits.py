"""A file with one flipped bit, set right by its sum: no other source is needed.

Every bit is flipped in turn until the SHA-256 is the recorded one. That is a proof, not
a guess. The time grows with the square of the size, hence the limit: 64 KiB take about
a minute.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from ..export.manifest import own_sum_holds

LARGEST_SEARCHED_BYTES = 64 * 2**10

_BLOCK = 64  # of SHA-256: what stands before is hashed once
_OWN_SUM = re.compile(rb'"manifest_sha256"\s*:\s*"([^"]{64})"')
_OWN_SUM_WITHIN = 4096


def flip_back(content: bytes, sha256: str) -> bytes | None:
    """Return the content with one bit flipped that has this sum; None: there is none,
    or the content is larger than is searched.
    """
    if len(content) > LARGEST_SEARCHED_BYTES:
        return None
    wanted, before = bytes.fromhex(sha256), hashlib.sha256()
    changed = bytearray(content)
    for start in range(0, len(content), _BLOCK):
        for place in range(start, min(start + _BLOCK, len(content))):
            for bit in range(8):
                changed[place] ^= 1 << bit
                digest = before.copy()
                digest.update(memoryview(changed)[start:])
                if digest.digest() == wanted:
                    return bytes(changed)
                changed[place] ^= 1 << bit
        before.update(content[start : start + _BLOCK])
    return None


def flip_manifest_back(content: bytes) -> bytes | None:
    """Return a manifest with one bit flipped whose own sum holds; None as above."""
    match = _OWN_SUM.search(content)
    if match is None:
        near_start = one_bit_off(content, min(len(content), _OWN_SUM_WITHIN))
        return next((c for c in near_start if own_sum_holds(c)), None)
    stated, (start, stop) = match[1], match.span(1)
    body = content[:start] + content[stop:]
    actual = hashlib.sha256(body).hexdigest().encode()
    if sum((a ^ b).bit_count() for a, b in zip(stated, actual, strict=True)) == 1:
        return content[:start] + actual + content[stop:]
    if re.fullmatch(rb"[0-9a-f]{64}", stated) is None:
        return None
    mended = flip_back(body, stated.decode())
    return None if mended is None else mended[:start] + stated + mended[start:]


def one_bit_off(content: bytes, length: int) -> Iterator[bytes]:
    """Yield the content with each bit of its first `length` bytes flipped in turn."""
    changed = bytearray(content)
    for place in range(length):
        for bit in range(8):
            changed[place] ^= 1 << bit
            yield bytes(changed)
            changed[place] ^= 1 << bit
