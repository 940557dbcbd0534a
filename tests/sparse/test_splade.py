"""SPLADE vectors are the formula's, whatever stands beside a text and however long."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masked_lm_parts import (
    FAMILIES,
    VOCABULARY,
    WINDOW,
    encoder_of,
    reference,
    save_masked_lm,
    some_texts,
    source_of,
    splade_config,
)
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel

from processor.ultimate_embedder.encoders import splade as splade_module
from processor.ultimate_embedder.encoders.masked_lm import load_masked_lm
from processor.ultimate_embedder.encoders.passes import DeviceUse
from processor.ultimate_embedder.encoders.splade import SpladeEncoder
from processor.ultimate_embedder.encoders.splade_source import find_splade
from processor.ultimate_embedder.errors import (
    DeviceOutOfMemory,
    ModelError,
    ModelMismatch,
    ModelNotAvailable,
)
from processor.ultimate_embedder.records import SparseVector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked_lm(tmp_path_factory.mktemp("models") / "tiny-splade")


def dense(vector: SparseVector, size: int = VOCABULARY) -> np.ndarray:
    values = np.zeros(size, dtype=np.float32)
    values[vector.indices] = vector.values
    return values


def bytes_of(vectors: list[SparseVector]) -> list[tuple[bytes, bytes]]:
    return [(v.indices.tobytes(), v.values.tobytes()) for v in vectors]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("as_gpu", [False, True], ids=["cpu", "passes of a gpu"])
def test_vectors_are_the_formula_over_all_logits_whatever_the_batch(
    tmp_path: Path, family: str, as_gpu: bool
) -> None:
    folder = save_masked_lm(tmp_path / family, family)
    source = source_of(folder)
    texts = some_texts(12)
    encoder = SpladeEncoder(*load_masked_lm(source), source, as_gpu=as_gpu)
    found = encoder.encode_documents(texts)
    for text, vector in zip(texts, found, strict=True):
        ids = source.tokenizer.backend.encode(text).ids
        expected = reference(folder, ids)
        assert 0 < len(vector) < VOCABULARY
        assert dense(vector) == pytest.approx(expected, abs=1e-4)
        assert vector.indices.dtype == np.uint32
        assert vector.values.dtype == np.float32
        assert (np.diff(vector.indices.astype(np.int64)) > 0).all()
        assert (vector.values > 0).all()


def test_on_the_cpu_bytes_depend_on_the_text_alone(folder: Path) -> None:
    texts = some_texts(24)
    encoder = encoder_of(folder)
    together = bytes_of(encoder.encode_documents(texts))
    alone = [bytes_of(encoder.encode_documents([text]))[0] for text in texts]
    backwards = bytes_of(encoder.encode_documents(texts[::-1]))[::-1]
    assert together == alone == backwards
    assert bytes_of([encoder.encode_query(texts[0])]) == alone[:1]


def test_a_long_text_is_the_maximum_over_its_windows(folder: Path) -> None:
    encoder = encoder_of(folder)
    text = "ab cd ef gh ij kl mn op qr st uv wx yz 01 23 45 67 89 " * 4
    ids = encoder._source.tokenizer.backend.encode(text).ids
    own, room = ids[1:-1], WINDOW - 2
    windows = [own[start : start + room] for start in range(0, len(own), room)]
    assert len(windows) > 2
    expected = np.max([reference(folder, [2, *w, 3]) for w in windows], axis=0)
    [vector] = encoder.encode_documents([text])
    assert dense(vector) == pytest.approx(expected, abs=1e-4)
    [batch] = encoder.batches([text])
    assert (batch.windows, batch.truncated_tokens) == (len(windows), 0)


def test_cut_texts_lose_their_end_and_that_is_counted(folder: Path) -> None:
    encoder = encoder_of(folder, long_texts="cut")
    text = "abcdefghij" * 10
    ids = encoder._source.tokenizer.backend.encode(text).ids
    [batch] = encoder.batches([text])
    assert batch.truncated_tokens == len(ids) - WINDOW
    expected = reference(folder, [*ids[: WINDOW - 1], ids[-1]])
    assert dense(batch.vectors[0]) == pytest.approx(expected, abs=1e-4)


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of the storages that operations made and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        import weakref

        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() in self._seen or not storage.nbytes():
                continue
            pointer, size = storage.data_ptr(), storage.nbytes()
            self._seen.add(pointer)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, pointer, size)
        return result

    def _gone(self, pointer: int, size: int) -> None:
        self._seen.discard(pointer)
        self.now -= size


def test_the_vocabulary_head_in_slices_keeps_below_its_bound(tmp_path: Path) -> None:
    vocabulary, bound = 20_000, 2**20
    folder = save_masked_lm(tmp_path / "wide", vocabulary=vocabulary)
    source = source_of(folder)
    model, head = load_masked_lm(source)
    peaks, vectors = [], []
    for logit_bytes in (bound, 2**40):
        encoder = SpladeEncoder(
            model, head, source, logit_bytes=logit_bytes, as_gpu=True
        )
        with LiveBytes() as live:
            made = encoder.encode_documents(some_texts(8, longest=45))
        peaks.append(live.peak)
        vectors.append(made)
    longest = 45 + 2
    whole = longest * vocabulary * 4
    rows_of_vocabulary = 6 * vocabulary * 4  # maxima, their logarithm, what is not zero
    states = 8 * WINDOW * 4 * (32 * 8 + 48 * 3 + 4 * WINDOW)
    assert peaks[0] <= bound + rows_of_vocabulary + states
    assert peaks[0] < whole <= peaks[1]
    for sliced, unsliced in zip(*vectors, strict=True):
        assert dense(sliced, vocabulary) == pytest.approx(
            dense(unsliced, vocabulary), abs=1e-5
        )


def test_batches_are_of_like_length_and_bounded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splade_module, "TOKENS_A_BATCH", 100)
    texts = some_texts(30)
    batches = list(encoder_of(folder).batches(texts))
    assert sorted(p for batch in batches for p in batch.places) == list(range(30))
    longest = [max(len(texts[p]) for p in batch.places) for batch in batches]
    assert longest == sorted(longest)
    assert len(batches) > 5
    for batch, length in zip(batches, longest, strict=True):
        assert len(batch.places) == 1 or len(batch.places) * (length + 2) <= 100


def test_a_pass_without_memory_is_done_in_halves_and_keeps_its_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(folder)
    parts = load_masked_lm(source)
    texts = some_texts(16)
    expected = SpladeEncoder(*parts, source).encode_documents(texts)
    encoder = SpladeEncoder(*parts, source, as_gpu=True)
    forward, sizes, told = encoder.forward, [], []

    def short_of_memory(pieces: Any) -> Any:
        if len(pieces) > 3:
            raise DeviceOutOfMemory("no room")
        sizes.append(len(pieces))
        return forward(pieces)

    monkeypatch.setattr(encoder, "forward", short_of_memory)
    [batch] = encoder.batches(texts, tell=told.append)
    assert sorted(batch.places) == list(range(16))
    assert sum(sizes) == batch.windows == 16
    assert batch.oom_retries == len(told) > 0
    assert told == sorted(told, reverse=True)
    for place, ours in zip(batch.places, batch.vectors, strict=True):
        assert dense(ours) == pytest.approx(dense(expected[place]), abs=1e-4)


@pytest.mark.parametrize("as_gpu", [False, True], ids=["cpu", "passes of a gpu"])
def test_memory_that_fails_one_text_is_told_with_model_device_bytes_and_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, as_gpu: bool
) -> None:
    source = source_of(folder)
    use = DeviceUse(
        model="tiny-splade", device="cpu", used_bytes=lambda: 7, cap_bytes=2**30
    )
    encoder = SpladeEncoder(*load_masked_lm(source), source, use=use, as_gpu=as_gpu)

    def fail(input_ids: torch.Tensor, **_: Any) -> Any:
        if input_ids.shape[1] > 20:
            raise torch.OutOfMemoryError("out of memory")
        return model(input_ids=input_ids, **_)

    model = encoder._model
    monkeypatch.setattr(encoder, "_model", fail)
    with pytest.raises(
        DeviceOutOfMemory,
        match=r"tiny-splade ran out of memory on cpu with one text of 32 tokens alone, "
        r"0\.00 GiB \(7 bytes\) used, the cap is 1\.00 GiB\.",
    ) as caught:
        encoder.encode_documents(["abc", "a" * 30, "defg"])
    assert caught.value.row == 1
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.99), ("float16", 0.995)])
def test_in_16_bits_the_vectors_are_near_those_in_float32(
    folder: Path, dtype: str, least: float
) -> None:
    texts = some_texts(10)
    exact = encoder_of(folder).encode_documents(texts)
    rough = encoder_of(folder, dtype=dtype).encode_documents(texts)
    for one, other in zip(exact, rough, strict=True):
        a, b = dense(one), dense(other)
        assert a @ b > least * np.linalg.norm(a) * np.linalg.norm(b)


def test_weights_that_are_not_here_are_named_with_a_cure() -> None:
    absent = replace(splade_config(Path("x")), hf_model_id="nobody/has-this-splade")
    with pytest.raises(ModelNotAvailable) as raised:
        find_splade(absent, offline=True)
    assert raised.value.cure


def test_an_encoder_without_a_masked_lm_head_is_refused(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "headless")
    (folder / "model.safetensors").unlink()
    config = BertConfig.from_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    with pytest.raises(ModelMismatch, match=r"lacks \d+ weights.*cls\.predictions"):
        encoder_of(folder)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "small", vocabulary=VOCABULARY)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 100}))
    with pytest.raises(ModelMismatch, match="vocabulary of 100; its tokenizer has"):
        source_of(folder)


def test_a_head_over_another_vocabulary_than_stated_is_refused(folder: Path) -> None:
    with pytest.raises(ModelMismatch, match="no linear head"):
        encoder_of(folder, vocabulary_size=VOCABULARY + 1)


def test_a_window_longer_than_the_models_is_refused(folder: Path) -> None:
    longer = find_splade(splade_config(folder, max_tokens=WINDOW + 1), offline=True)
    with pytest.raises(ModelMismatch, match=f"{WINDOW} positions"):
        SpladeEncoder.load(longer)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "pickled")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="its weights are pickles"):
        encoder_of(folder)


def test_the_fingerprint_follows_weights_precision_and_window(folder: Path) -> None:
    source = source_of(folder)
    others = [
        replace(source, dtype="bfloat16"),
        replace(source, device="cuda:0"),
        replace(source, long_texts="cut"),
        replace(source, location=replace(source.location, known_revision="other")),
        find_splade(splade_config(folder, max_tokens=20), offline=True),
    ]
    prints = {source.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 6
    assert replace(source, device="cuda:1").fingerprint == others[1].fingerprint
