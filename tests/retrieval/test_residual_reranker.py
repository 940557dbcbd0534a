"""A reranker kept as a difference: put together, computed, exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from difference_parts import CARD, RESIDUAL, base, make_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.models import export_model
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.cross_encoder import TorchCrossEncoder
from processor.ultimate_embedder.encoders.difference_model import export_cross_encoder
from processor.ultimate_embedder.encoders.pair_batches import score_pairs
from processor.ultimate_embedder.encoders.weight_difference import write_difference
from processor.ultimate_embedder.errors import (
    ModelMismatch,
    ModelNotAvailable,
    UsageError,
)
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import RerankRan
from processor.ultimate_embedder.models.choice import choose_rerank
from processor.ultimate_embedder.search.loading import ManifestEncoders

WORDS = [
    "index",
    "payload",
    "filter",
    "vector",
    "search",
    "point",
    "segment",
    "shard",
    "query",
    "memory",
]


def pairs(count: int, seed: int = 5) -> list[tuple[str, str]]:
    """Return pairs of 4 to 90 tokens: some fill their padding, some are cut."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(1, 80, count)]
    return [(" ".join(rng.choice(WORDS, rng.integers(1, 9))), t) for t in texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_difference(tmp_path_factory.mktemp("made") / "tuned")


@pytest.fixture(scope="module")
def config(folder: Path) -> RerankingConfig:
    return choose_rerank(str(folder))


@pytest.fixture(scope="module")
def scorer(config: RerankingConfig) -> TorchCrossEncoder:
    return TorchCrossEncoder.load(config, offline=True)


def test_a_folder_with_a_difference_is_chosen_with_its_window_and_blend(
    folder: Path, config: RerankingConfig
) -> None:
    assert (config.name, config.max_tokens) == ("tuned", CARD.max_tokens)
    assert str(config.blend) == CARD.blend
    assert config.difference == str(folder)
    assert config.package == RESIDUAL.package


def test_an_export_opens_in_sentence_transformers_with_equal_logits(
    config: RerankingConfig, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    target = tmp_path / "exported"
    export_cross_encoder(config, target, offline=True)
    theirs = CrossEncoder(str(target), device="cpu", local_files_only=True)
    assert isinstance(theirs.activation_fn, torch.nn.Identity)
    asked = pairs(24)
    logits = theirs.predict(asked, show_progress_bar=False)
    exact = TorchCrossEncoder.load(config, offline=True, dtype="float32")
    assert max(exact.pair_lengths(asked)) == CARD.max_tokens
    assert np.ptp(logits) > 0.3
    assert exact.score(asked) == pytest.approx(logits, abs=2e-4)


def test_an_export_is_itself_a_reranker_with_the_same_scores(
    config: RerankingConfig, scorer: TorchCrossEncoder, tmp_path: Path
) -> None:
    target = tmp_path / "exported"
    export_cross_encoder(config, target, offline=True)
    exported = replace(choose_rerank(str(target)), max_tokens=CARD.max_tokens)
    assert exported.difference is None
    found = TorchCrossEncoder.load(exported, offline=True).score(pairs(12))
    assert found.tobytes() == scorer.score(pairs(12)).tobytes()


def test_sixteen_bit_logits_stay_close_to_exact_ones(
    config: RerankingConfig,
) -> None:
    asked = pairs(40)
    exact, short = (
        TorchCrossEncoder.load(config, offline=True, dtype=dtype).score(asked)
        for dtype in ("float32", "bfloat16")
    )
    assert np.abs(exact - short).max() < 0.05 * np.ptp(exact)
    assert np.corrcoef(exact, short)[0, 1] > 0.99
    assert len(set(short.tolist())) == len(set(exact.tolist()))


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_a_score_depends_on_its_pair_alone(
    scorer: TorchCrossEncoder, data: st.DataObject
) -> None:
    asked = pairs(14)
    alone = np.concatenate([scorer.score([pair]) for pair in asked])
    order = data.draw(st.permutations(range(14)))
    cap = data.draw(st.integers(1, 20))
    scorer.threads = data.draw(st.integers(1, 4))
    mixed = score_pairs(scorer, [asked[i] for i in order], cap)
    assert mixed.tobytes() == alone[order].tobytes()


def test_pairs_that_were_counted_are_not_tokenised_again(
    scorer: TorchCrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[tuple[str, str]] = []
    real = scorer._tokenizer

    class Counting:
        def encode_batch(self, pairs: list[tuple[str, str]]) -> list[Encoding]:
            tokenised.extend(pairs)
            return real.encode_batch(pairs)

    pairs = [("a walrus", f"It has {n} tusks.") for n in range(4)]
    expected = scorer.score(pairs)
    monkeypatch.setattr(scorer, "_tokenizer", Counting())
    scorer.pair_lengths(pairs[:3])
    found = scorer.score([pairs[3], *pairs[:3]])
    assert tokenised == pairs
    assert found.tolist() == [expected[3], *expected[:3].tolist()]


def test_scoring_leaves_torchs_threads_as_they_were(
    scorer: TorchCrossEncoder,
) -> None:
    before = torch.get_num_threads()
    scorer.threads = 2
    scorer.score(pairs(5))
    assert torch.get_num_threads() == before


def test_lengths_are_padded_to_few_shapes(scorer: TorchCrossEncoder) -> None:
    padded = {scorer.padded_tokens([n]) for n in range(1, CARD.max_tokens + 1)}
    assert len(padded) == CARD.max_tokens / 8
    assert scorer.padded_tokens([3, 8, 9]) == 8 + 8 + 16


def test_without_any_difference_every_logit_is_zero(tmp_path: Path) -> None:
    write_difference(tmp_path / "none", base(), base(), CARD)
    scorer = TorchCrossEncoder.load(choose_rerank(str(tmp_path / "none")))
    assert scorer.score(pairs(3)).tolist() == [0.0, 0.0, 0.0]


def test_weights_that_this_installation_lacks_are_named_with_a_cure() -> None:
    absent = replace(RESIDUAL, name="x", difference="not-shipped-in-this-version")
    with pytest.raises(ModelNotAvailable, match="not-shipped") as raised:
        TorchCrossEncoder.load(absent, offline=True)
    assert "--rerank-model" in (raised.value.cure or "")


def test_a_base_with_other_weights_is_refused(
    config: RerankingConfig, tmp_path: Path
) -> None:
    card = CARD.model_copy(update={"base_sha256": "0" * 64})
    write_difference(tmp_path / "other", base(), base(), card)
    with pytest.raises(ModelMismatch, match="SHA-256"):
        TorchCrossEncoder.load(choose_rerank(str(tmp_path / "other")), offline=True)


def test_a_search_reranks_with_the_difference_that_the_manifest_names(
    folder: Path, config: RerankingConfig, scorer: TorchCrossEncoder
) -> None:
    run = RerankRan(
        model=config.name,
        queries=1,
        candidates=1,
        top_k=1,
        statistics={
            "hf_model_id": config.hf_model_id,
            "difference": config.difference,
        },
    )
    manifest = Manifest(collection="c", chunk_count=1, rerank_run=run)
    texts = [text for _, text in pairs(9)]
    found = ManifestEncoders(manifest, offline=True).rerank("index query", texts)
    expected = scorer.score([("index query", text) for text in texts])
    assert found.tobytes() == expected.tobytes()


def test_the_command_writes_a_folder_and_refuses_a_full_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    assert run_function(export_model, [str(folder), str(target)]) == 0
    assert "CrossEncoder" in capsys.readouterr().out
    stated = json.loads((target / "config.json").read_text(encoding="utf-8"))
    assert stated["architectures"] == ["BertForSequenceClassification"]
    assert run_function(export_model, [str(folder), str(target)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line_with_its_cure(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "x"
    assert run_function(export_model, [str(folder), str(target)]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"error: {target} cannot be written: Not a directory. Name another folder, or "
        "mend its permissions.\n"
    )


def test_a_reranker_published_as_a_whole_is_no_export(tmp_path: Path) -> None:
    hub = RerankingConfig(name="hub", hf_model_id="somebody/model")
    with pytest.raises(UsageError):
        export_cross_encoder(hub, tmp_path / "out")
