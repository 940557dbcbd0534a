"""`verify --deep` loads the SPLADE model a bundle names and repeats its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from masked_lm_parts import save_masked_lm
from real_bundle import run_bundle

from processor.ultimate_embedder.cli.deep import ModelsOf
from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.models.choice import choose_sparse
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.verify import verify_bundle


def none_here(texts: Sequence[str], key: str) -> Float32Array:
    raise ModelNotAvailable("not asked for")


def test_splade_vectors_of_a_run_are_made_again_bit_for_bit(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "models" / "tiny-splade", "bert")
    sparse = (choose_sparse(str(folder)),)
    bundle = run_bundle(tmp_path, sparse=sparse, enable_rerank=False)
    models = ModelsOf(bundle)
    report = verify_bundle(bundle, True, none_here, models.embed_sparse)
    assert report.whole
    told = "24 sparse vectors made again by tiny-splade, 24 equal bit for bit"
    assert told in report.checks


def test_a_splade_model_that_has_gone_is_a_note(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "models" / "tiny-splade", "bert")
    sparse = (choose_sparse(str(folder)),)
    bundle = run_bundle(tmp_path, sparse=sparse, enable_rerank=False)
    folder.rename(folder.with_name("elsewhere"))
    report = verify_bundle(bundle, True, none_here, ModelsOf(bundle).embed_sparse)
    assert report.whole
    assert any("not made again by tiny-splade" in note for note in report.notes)
