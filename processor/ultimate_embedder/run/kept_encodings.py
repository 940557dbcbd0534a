"""Encodings of probes that outlive an interruption, a file for each call.

A file is 16 bytes of digest and what numpy stores of the call's results. Its name
stands for the model, the kind of call and the token ids; no text is in it. One that is
torn or damaged counts as absent, so nothing waits for a rename.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ..encoders.protocols import AttentionEncoder
from ..records import Float32Array, UInt32Array

_DIGEST_BYTES = 16


class KeepingEncoder:
    """An encoder that asks another one for the calls that no earlier run made."""

    def __init__(
        self, encoder: AttentionEncoder, folder: Path, fingerprint: str
    ) -> None:
        """`fingerprint` stands for all that a call's bytes follow from but the ids."""
        self._encoder, self._folder = encoder, folder
        self._fingerprint = fingerprint.encode()
        self._used: set[str] = set()

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self._encoder.dimension

    @property
    def dtype(self) -> str:
        """Precision of the weights."""
        return self._encoder.dtype

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._encoder.device

    def padded_length(self, tokens: int) -> int:
        """Return how many token positions are computed for a text of `tokens`."""
        return self._encoder.padded_length(tokens)

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], kept or computed now.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path("vectors", ids)
        if (kept := _read(path)) is not None:
            return kept["vectors"]
        vectors = self._encoder.encode(ids)
        _write(path, vectors=vectors)
        return vectors

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Return vectors and each text's attention, kept or computed now.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path("attention", ids)
        if (kept := _read(path)) is not None:
            ends = np.cumsum([len(one) for one in ids])
            return kept["vectors"], np.split(kept["attention"], ends[:-1])
        vectors, attention = self._encoder.encode_with_attention(ids)
        _write(path, vectors=vectors, attention=np.concatenate(attention))
        return vectors, attention

    def forget_others(self) -> None:
        """Remove what no call of this object asked for."""
        for path in self._folder.glob("*"):
            if path.name not in self._used:
                path.unlink()

    def _path(self, kind: str, ids: Sequence[UInt32Array]) -> Path:
        """Return the file of a call, which counts as used from now on."""
        named = blake2b(self._fingerprint, digest_size=_DIGEST_BYTES)
        named.update(kind.encode())
        for one in ids:
            named.update(len(one).to_bytes(8, "little") + one.tobytes())
        self._used.add(named.hexdigest())
        return self._folder / named.hexdigest()


def _read(path: Path) -> dict[str, Float32Array] | None:
    """Return what a file holds, None where it is absent, torn or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, stored = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if blake2b(stored, digest_size=_DIGEST_BYTES).digest() != digest:
        return None
    with np.load(io.BytesIO(stored)) as found:
        return {name: found[name] for name in found.files}


def _write(path: Path, **arrays: Float32Array) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    stored = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(blake2b(stored, digest_size=_DIGEST_BYTES).digest() + stored)
        stream.flush()
        os.fsync(stream.fileno())
