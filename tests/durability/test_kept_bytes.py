"""What earlier runs keep is proved before it is used; what is not used is said."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import KaggleGPUConfig, PipelineConfig
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.errors import RunStopped
from processor.ultimate_embedder.ledger import BatchRecord, Ledger
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.stages import earlier_pass
from processor.ultimate_embedder.telemetry.events import BatchFinished, WorkRedone
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process

MODEL = dense_model("all-miniLM-l6")
DENSE = f"dense-{MODEL.name}"
TEXTS = [f"# On {word}\n\nAll of {word}." for word in "abcdefghijkl"] + ["long " * 600]

Run = Callable[..., RecordingListener]


def write_chunks(root: Path, texts: list[str]) -> None:
    folder = root / "chunked" / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"text": one, "metadata": {"filename": "a.md"}} for one in texts]
    (folder / "all_chunks.json").write_text(json.dumps(entries))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_chunks(tmp_path, TEXTS)

    def go(
        *, leave: bool = False, parts: Parts | None = None, **changes: Any
    ) -> RecordingListener:
        config = PipelineConfig(
            chunked_dir=tmp_path / "chunked",
            output_dir=tmp_path / "out",
            dense=(MODEL,),
            sparse=(
                sparse_model("qdrant-bm25"),
                sparse_model("qdrant-minilm-attention"),
            ),
            enable_rerank=False,
            offline=True,
            gpu=KaggleGPUConfig(backend="cpu", base_batch_size=4),
        )
        heard = RecordingListener()
        runner = BatchRunner(
            replace(config, **changes),
            heard,
            "run-1",
            parts or hashing_parts(),
            leave_up_to_date=leave,
        )
        assert runner.run().exit_code == 0
        return heard

    return go


def work(root: Path) -> Path:
    return root / "out" / ".work" / "docs"


def bundle(root: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted((root / "out" / "docs").rglob("*"))
        if path.is_file() and path.name not in ("processing_summary.json", "SHA256SUMS")
    }


def told(heard: RecordingListener) -> list[tuple[str | None, str, bool]]:
    return [
        (one.stage, one.reason, one.damaged)
        for one in heard.of(WorkRedone)
        if isinstance(one, WorkRedone)
    ]


def embedded(heard: RecordingListener) -> int:
    return sum(
        one.items
        for one in heard.of(BatchFinished)
        if isinstance(one, BatchFinished) and one.stage == "dense"
    )


def flip(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def test_what_is_whole_is_taken_over_in_silence(run: Run, tmp_path: Path) -> None:
    assert embedded(run()) == len(TEXTS)
    before = bundle(tmp_path)
    again = run()
    assert embedded(again) == 0
    assert told(again) == []
    assert bundle(tmp_path) == before


@pytest.mark.parametrize("name", ["vectors.npy", "windows.npy", "attention.f32"])
def test_a_flipped_bit_of_a_kept_vector_costs_its_batch(
    run: Run, tmp_path: Path, name: str
) -> None:
    run()
    before = bundle(tmp_path)
    flip(work(tmp_path) / DENSE / name, 0.4)
    heard = run()
    reason = "bytes of 1 batches are not those that were written"
    assert ("dense", reason, True) in told(heard)
    assert 0 < embedded(heard) <= 4
    assert bundle(tmp_path) == before


@pytest.mark.parametrize("damage", [cut, Path.unlink])
@pytest.mark.parametrize("name", ["vectors.npy", "windows.npy", "attention.f32"])
def test_a_kept_file_that_is_gone_or_cut_is_made_anew(
    run: Run, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    run()
    before = bundle(tmp_path)
    damage(work(tmp_path) / DENSE / name)
    heard = run()
    reason = "files that an earlier run left are gone, cut short or unreadable"
    assert ("dense", reason, True) in told(heard)
    assert bundle(tmp_path) == before


@pytest.mark.parametrize("name", ["vectors.npy", "attention.f32"])
def test_a_flipped_bit_is_not_copied_into_the_pass_of_an_edited_corpus(
    run: Run, tmp_path: Path, name: str
) -> None:
    run()
    flip(work(tmp_path) / DENSE / name, 0.4)
    write_chunks(tmp_path, [*TEXTS[1:], "a new one"])
    heard = run()
    assert [damaged for stage, _, damaged in told(heard) if stage == "dense"] == [True]
    assert 1 < embedded(heard) <= 5
    edited = bundle(tmp_path)
    run(resume=False)
    assert bundle(tmp_path) == edited


def test_what_is_copied_in_several_goes_is_all_copied(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier_pass, "_ROWS_A_COPY", 5)
    run()
    write_chunks(tmp_path, [*TEXTS[1:], "a new one"])
    assert embedded(run()) == 1
    edited = bundle(tmp_path)
    run(resume=False)
    assert bundle(tmp_path) == edited


def test_a_pass_that_stopped_while_it_was_replaced_is_taken_over(
    run: Run, tmp_path: Path
) -> None:
    run()
    before = bundle(tmp_path)
    folder = work(tmp_path) / DENSE
    folder.rename(folder.with_name(f"{DENSE}.old"))
    assert embedded(run()) == 0
    assert bundle(tmp_path) == before


@pytest.mark.parametrize("name", ["vectors.npy", "attention.f32"])
def test_a_flipped_bit_of_what_was_copied_is_found(
    run: Run, tmp_path: Path, name: str
) -> None:
    run()
    write_chunks(tmp_path, [*TEXTS[1:], "a new one"])
    run()
    before = bundle(tmp_path)
    flip(work(tmp_path) / DENSE / name, 0.4)
    heard = run()
    assert [damaged for stage, _, damaged in told(heard) if stage == "dense"] == [True]
    assert bundle(tmp_path) == before


@pytest.mark.parametrize("name", ["pieces.npz", "plan.npz", "rows.npz", "pass.json"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_torn_description_of_an_earlier_pass_is_left_behind(
    run: Run, tmp_path: Path, name: str, share: float
) -> None:
    run()
    path = work(tmp_path) / DENSE / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    write_chunks(tmp_path, [*TEXTS[1:], "a new one"])
    heard = run()
    gc.collect()  # a file that was left open would be told now
    reason = "what an earlier run left cannot be read"
    assert ("dense", reason, True) in told(heard)
    assert embedded(heard) == len(TEXTS)


def test_a_flipped_bit_of_token_ids_is_found(run: Run, tmp_path: Path) -> None:
    run()
    before = bundle(tmp_path)
    (folder,) = work(tmp_path).glob("tokens-*")
    for name in ("ids.u32", "offsets.npy", "full_lengths.npy", "frame.npy"):
        flip(folder / name, 0.9)
        heard = run()
        reason = "token ids of an earlier run are not what was written"
        assert told(heard) == [("read", reason, True)], name
        assert bundle(tmp_path) == before


def test_a_flipped_bit_of_a_kept_sparse_matrix_is_found(
    run: Run, tmp_path: Path
) -> None:
    run()
    before = bundle(tmp_path)
    for path in sorted((work(tmp_path) / "sparse").glob("*/*.npy")):
        flip(path, 0.9)
        heard = run()
        reason = f"{path.name}: not what was written"
        assert told(heard) == [("sparse", reason, True)], path
        assert bundle(tmp_path) == before


def test_other_texts_are_said_where_they_cost_work(run: Run, tmp_path: Path) -> None:
    run()
    write_chunks(tmp_path, [*TEXTS, "a new one"])
    assert told(run()) == [
        ("read", "texts changed", False),
        ("sparse", "chunks changed", False),
        ("sparse", "chunks, fingerprint changed", False),
    ]


def test_another_setting_of_a_model_is_named(run: Run, tmp_path: Path) -> None:
    run()
    heard = run(long_texts="cut")
    assert ("dense", "tokenizer changed", False) in told(heard)
    assert embedded(heard) == len(TEXTS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"jsonl_layout": "simple"}, "jsonl_layout changed"),
        ({"seed": 5, "probes": False}, "probes, seed changed"),
        ({"resume": False}, "--fresh asks for it"),
    ],
)
def test_why_a_bundle_is_made_anew_is_said(
    run: Run, change: dict[str, Any], reason: str
) -> None:
    run(leave=True)
    assert told(run(leave=True)) == []
    heard = run(leave=True, **change)
    assert told(heard) == [(None, reason, False)]


def test_a_damaged_bundle_is_named_with_its_file(run: Run, tmp_path: Path) -> None:
    run(leave=True)
    flip(tmp_path / "out" / "docs" / "docs_ids.jsonl")
    reason = "docs_ids.jsonl: not what the sums say"
    assert told(run(leave=True)) == [(None, reason, True)]
    (tmp_path / "out" / "docs" / "processing_summary.json").write_text("{")
    ((stage, reason, damaged),) = told(run(leave=True))
    assert (stage, damaged) == (None, True)
    assert "processing_summary.json" in reason


def test_a_ledger_of_another_version_is_left_behind(run: Run, tmp_path: Path) -> None:
    run()
    before = bundle(tmp_path)
    ledger = work(tmp_path) / "ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA user_version = 1")
    heard = run()
    assert told(heard) == [("dense", "the ledger knows no batch of it", True)]
    assert embedded(heard) == len(TEXTS)
    assert bundle(tmp_path) == before


class Crowded:
    """As a GPU computes: bytes depend on how many rows share the pass."""

    def __init__(self, encoder: AttentionEncoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, ids: Sequence[Any]) -> Float32Array:
        return self._moved(self._encoder.encode(ids))

    def encode_with_attention(
        self, ids: Sequence[Any]
    ) -> tuple[Float32Array, list[Float32Array]]:
        vectors, attention = self._encoder.encode_with_attention(ids)
        return self._moved(vectors), attention

    def _moved(self, vectors: Float32Array) -> Float32Array:
        moved = vectors.copy()
        moved[:, 0] += 1e-4 * len(moved)
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        return moved


def crowded() -> Parts:
    """Parts that compute as a GPU does."""
    parts = hashing_parts()

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[Any]:
        with parts.models.resident(job.model) as encoder:
            yield Crowded(encoder)

    return replace(parts, open_executor=in_process(open_encoder))


@contextmanager
def stopped_at_mark(number: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a run end when so many outputs of batches are marked as done."""
    mark, marked = Ledger.mark, 0

    def stop(ledger: Ledger, name: str, record: BatchRecord) -> None:
        nonlocal marked
        if marked == number:
            raise RunStopped("The power is gone.")
        marked += 1
        mark(ledger, name, record)

    with patch.context() as context, pytest.raises(RunStopped):
        context.setattr(Ledger, "mark", stop)
        yield


def vectors(root: Path) -> Float32Array:
    (path,) = (root / "out" / "docs").glob("*_embeddings.npy")
    return np.load(path)[: len(TEXTS)].copy()


@pytest.mark.parametrize("marks", [None, 0, 3, 4], ids="at {}".format)
def test_attention_that_is_switched_on_rewrites_no_vector_that_was_taken_over(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: int | None
) -> None:
    bm25 = (sparse_model("qdrant-bm25"),)
    off: dict[str, Any] = {"sparse": bm25, "exports": ("npy",), "probes": False}
    on = off | {"sparse": (*bm25, sparse_model("qdrant-minilm-attention"))}
    run(**off, parts=crowded())
    before = vectors(tmp_path)
    write_chunks(tmp_path, [*TEXTS, "# New\n\nMore of it."])
    if marks is not None:  # the fourth is of vectors whose attention is not marked yet
        with stopped_at_mark(marks, monkeypatch):
            run(**on, parts=crowded())
    heard = run(**on, parts=crowded())
    assert not any(damaged for *_, damaged in told(heard))
    np.testing.assert_array_equal(vectors(tmp_path), before)
    write_chunks(tmp_path, [*TEXTS, "# New\n\nMore of it.", "# Third\n\nx y z"])
    heard = run(**on, parts=crowded())
    assert not any(damaged for *_, damaged in told(heard))
    assert embedded(heard) == 1
