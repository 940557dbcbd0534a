"""Encodings of probes outlive an interruption, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.records import Float32Array, UInt32Array
from processor.ultimate_embedder.run.kept_encodings import KeepingEncoder
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import (
    HashingEncoder,
    WordOverlapScorer,
    hashing_parts,
)


def tokens(*ids: list[int]) -> list[UInt32Array]:
    return [np.array(one, dtype=np.uint32) for one in ids]


IDS = tokens([5, 3, 8], [1], [2, 2])
CUT_ELSEWHERE = tokens([5, 3], [8, 1], [2, 2])


class Counting(HashingEncoder):
    """Remembers how many texts it was given."""

    def __init__(self) -> None:
        super().__init__(16)
        self.texts = 0

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        self.texts += len(ids)
        return super().encode(ids)


def test_what_was_encoded_comes_back_bit_for_bit(tmp_path: Path) -> None:
    vectors, attention = KeepingEncoder(
        HashingEncoder(16), tmp_path, "f"
    ).encode_with_attention(IDS)
    asked = Counting()
    again = KeepingEncoder(asked, tmp_path, "f")
    kept_vectors, kept_attention = again.encode_with_attention(IDS)
    assert asked.texts == 0
    assert kept_vectors.tobytes() == vectors.tobytes()
    assert [one.tobytes() for one in kept_attention] == [
        one.tobytes() for one in attention
    ]


@pytest.mark.parametrize(
    ("fingerprint", "ids"),
    [
        ("other", IDS),
        ("f", IDS[:2]),
        ("f", [IDS[0], IDS[2], IDS[1]]),
        ("f", CUT_ELSEWHERE),
    ],
)
def test_another_call_is_computed(
    tmp_path: Path, fingerprint: str, ids: list[UInt32Array]
) -> None:
    KeepingEncoder(HashingEncoder(16), tmp_path, "f").encode(IDS)
    asked = Counting()
    found = KeepingEncoder(asked, tmp_path, fingerprint).encode(ids)
    assert asked.texts == len(ids)
    assert found.tobytes() == HashingEncoder(16).encode(ids).tobytes()


def test_vectors_are_not_taken_for_vectors_with_attention(tmp_path: Path) -> None:
    KeepingEncoder(HashingEncoder(16), tmp_path, "f").encode(IDS)
    asked = Counting()
    KeepingEncoder(asked, tmp_path, "f").encode_with_attention(IDS)
    assert asked.texts == len(IDS)


def test_no_flipped_bit_and_no_cut_gives_another_vector(tmp_path: Path) -> None:
    true = KeepingEncoder(HashingEncoder(16), tmp_path, "f").encode(IDS)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    cuts = [content[:size] for size in range(len(content))]
    flips = [
        content[:place]
        + bytes([content[place] ^ 1 << place % 8])
        + content[place + 1 :]
        for place in range(len(content))
    ]
    for wrong in [*cuts, *flips]:
        path.write_bytes(wrong)
        asked = Counting()
        found = KeepingEncoder(asked, tmp_path, "f").encode(IDS)
        assert asked.texts == len(IDS)
        assert found.tobytes() == true.tobytes()


def test_what_no_call_asked_for_goes(tmp_path: Path) -> None:
    KeepingEncoder(HashingEncoder(16), tmp_path, "f").encode(IDS)
    later = KeepingEncoder(HashingEncoder(16), tmp_path, "f")
    later.encode(IDS[:1])
    later.forget_others()
    assert len(list(tmp_path.iterdir())) == 1


class StoppedScorer(WordOverlapScorer):
    """Ends the run when it is asked."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        raise KeyboardInterrupt


def test_a_run_stopped_after_its_probes_encodes_none_again(tmp_path: Path) -> None:
    folder = tmp_path / "chunked" / "c"
    folder.mkdir(parents=True)
    body = "Each of its pages says in many plain words how one goes about that."
    texts = [f"# Cutting the {name}\n\n{body} {name}" for name in ("cake", "hedge")]
    (folder / "a_chunks.json").write_text(json.dumps([{"text": t} for t in texts]))
    config = PipelineConfig(
        chunked_dir=tmp_path / "chunked",
        output_dir=tmp_path / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"), sparse_model("qdrant-minilm-attention")),
        rerank=rerank_model("ms-marco-minilm-l6"),
        offline=True,
    )
    stopped = replace(hashing_parts(), load_scorer=lambda _: StoppedScorer())
    with pytest.raises(KeyboardInterrupt):
        BatchRunner(config, silent, "first", stopped).run()
    kept = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "out" / ".work" / "c" / "probes").rglob("*")
        if path.is_file()
    }
    assert BatchRunner(config, silent, "second", hashing_parts()).run().exit_code == 0
    assert kept
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
