"""Scores of pairs that outlive an interruption: a reranker asks for what is missing.

The file is a head that names what the scores follow from, then records of fixed length:
16 bytes that stand for a pair's texts, its score as a little-endian float32, and a
CRC-32 of both. No text is in it. A record that was torn or damaged counts as absent.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
import orjson

from ..config import RerankingConfig
from ..encoders.content_sums import folder_sha256
from ..encoders.protocols import PairScorer
from ..encoders.weight_difference import difference_sha256
from ..hardware import this_machine
from ..libraries import installed_versions
from ..records import Float32Array

_RULES = 3  # raise it when the same settings come to give other scores
_LIBRARIES = ("torch", "transformers", "tokenizers")
_KEY_BYTES = 16
_RECORD = struct.Struct(f"<{_KEY_BYTES}sfI")
_HEAD_BYTES = 32
_DECIDE_NOTHING = ("candidates", "top_k", "blend", "fallback", "licence")

Pair = tuple[str, str]


class KeptScores:
    """Scores by pair in one file; a context manager around its descriptor."""

    def __init__(self, path: Path, fingerprint: bytes) -> None:
        """Open the file. Another fingerprint, 32 bytes, than the file's: it is emptied.

        Raises:
            OSError: it cannot be read or written; so do the methods.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._known: dict[bytes, float] = {}
        content = _read(self._descriptor)
        if content[:_HEAD_BYTES] != fingerprint:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, fingerprint, 0)
            content = fingerprint
        self._fingerprint = fingerprint
        records = (len(content) - _HEAD_BYTES) // _RECORD.size
        self._end = _HEAD_BYTES + records * _RECORD.size
        for key, score, check in _RECORD.iter_unpack(content[_HEAD_BYTES : self._end]):
            if check == zlib.crc32(struct.pack(f"<{_KEY_BYTES}sf", key, score)):
                self._known[key] = score

    def __enter__(self) -> KeptScores:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, pair: Pair) -> float | None:
        """Return the score of a pair, None where it is not known."""
        return self._known.get(self._key(pair))

    def add(self, pairs: Sequence[Pair], scores: Float32Array) -> None:
        """Keep scores; they are on the disk when this returns."""
        data = b""
        for pair, score in zip(pairs, scores.tolist(), strict=True):
            key = self._key(pair)
            check = zlib.crc32(struct.pack(f"<{_KEY_BYTES}sf", key, score))
            data += _RECORD.pack(key, score, check)
            self._known[key] = score
        while data:
            written = os.pwrite(self._descriptor, data, self._end)
            data, self._end = data[written:], self._end + written
        os.fdatasync(self._descriptor)

    def _key(self, pair: Pair) -> bytes:
        """Return what stands for a pair in this file."""
        query, document = (text.encode("utf-8", "surrogatepass") for text in pair)
        hashed = hashlib.blake2b(self._fingerprint, digest_size=_KEY_BYTES)
        hashed.update(len(query).to_bytes(8, "little") + query + document)
        return hashed.digest()


class KeepingScorer:
    """A scorer that asks another one for the pairs that no earlier run scored."""

    def __init__(self, scorer: PairScorer, kept: KeptScores) -> None:
        self._scorer, self._kept = scorer, kept

    @property
    def name(self) -> str:
        """The model key."""
        return self._scorer.name

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._scorer.device

    def pair_lengths(self, pairs: Sequence[Pair]) -> list[int]:
        """Return token counts of pairs after truncation."""
        return self._scorer.pair_lengths(pairs)

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """Return the positions computed for pairs of these lengths in one call."""
        return self._scorer.padded_tokens(lengths)

    def score(self, pairs: Sequence[Pair]) -> Float32Array:
        """Return float32 [pairs]: kept scores, and those computed now."""
        missing = [pair for pair in pairs if self._kept.get(pair) is None]
        if missing:
            found = np.asarray(self._scorer.score(missing), dtype=np.float32)
            if len(missing) == len(pairs):
                self._keep(missing, found)
                return found
            self._keep(missing, found)
        return np.array([self._kept.get(pair) for pair in pairs], dtype=np.float32)

    def _keep(self, pairs: Sequence[Pair], scores: Float32Array) -> None:
        """Keep what can be used: a score that is no number stops the run anyway."""
        finite = np.isfinite(scores)
        self._kept.add(
            [pair for pair, good in zip(pairs, finite, strict=True) if good],
            scores[finite],
        )


def scores_fingerprint(
    config: RerankingConfig,
    *,
    device: str,
    threads: int | None,
    dtype: str | None = None,
    card: str | None = None,
) -> bytes:
    """Return 32 bytes that stand for all that a pair's score follows from.

    `dtype` is the precision of the device, `card` a GPU's name: another model of card
    has other kernels.

    Raises:
        ModelNotAvailable: a file of a local model cannot be read.
    """
    settings = asdict(config)
    folder = Path(config.hf_model_id)  # a model of the hub has its revision instead
    facts = {
        "rules": _RULES,
        "settings": {k: settings[k] for k in settings if k not in _DECIDE_NOTHING},
        "difference": difference_sha256(config.difference)
        if config.difference
        else None,
        "weights": folder_sha256(folder) if folder.is_dir() else None,
        "device": [device.split(":", maxsplit=1)[0], card],
        "dtype": dtype,
        "threads": [threads, this_machine().cores],
        "libraries": installed_versions(_LIBRARIES),
        "instruction_sets": this_machine().instruction_sets,
    }
    content = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(content).digest()


def _read(descriptor: int) -> bytes:
    content, size = b"", os.fstat(descriptor).st_size
    while len(content) < size:
        found = os.pread(descriptor, size - len(content), len(content))
        if not found:
            break
        content += found
    return content
