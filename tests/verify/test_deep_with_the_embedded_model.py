"""`verify --deep` loads the model the bundle names and repeats its vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_parts import PRIMARY, ListStore, dense_run, make_manifest, make_store

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.config import LongTexts
from processor.ultimate_embedder.encoders.texts import TextEncoder
from processor.ultimate_embedder.export.runtime import ExportRuntime
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import Float32Array


def export_embedded(
    output: Path,
    vectors: Float32Array,
    dtype: str,
    store: ListStore | None = None,
    **said: Any,
) -> Path:
    store, dense = store or make_store(len(vectors)), {PRIMARY: vectors}
    run = dense_run(PRIMARY, len(vectors), 384, dtype=dtype, **said)
    manifest = make_manifest(store, dense, {}, 0).model_copy(
        update={"dense_run": (run,)}
    )
    with ExportRuntime(output, "docs") as export:
        export.write_ids(store)
        export.write_dense(PRIMARY, vectors)
        export.write_points(store, dense, {})
        return export.publish(manifest)


def test_stored_vectors_are_repeated_bit_for_bit_and_a_stranger_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manager, config = ModelManager(offline=True), dense_model(PRIMARY)
    texts = [chunk.text for chunk in make_store(5)]
    ids = manager.tokenizer(config).encode(texts, "document").ids
    with manager.resident(config) as encoder:
        vectors, dtype = encoder.encode(ids), encoder.dtype
    bundle = export_embedded(tmp_path, vectors, dtype)
    assert run_function(verify, [str(bundle), "--deep"]) == 0
    assert "5 equal bit for bit" in capsys.readouterr().out
    swapped = np.ascontiguousarray(vectors[[1, 0, 2, 3, 4]])
    bundle = export_embedded(tmp_path, swapped, dtype)
    assert run_function(verify, [str(bundle)]) == 0
    assert run_function(verify, [str(bundle), "--deep"]) == 1
    assert "row 0: cosine" in capsys.readouterr().out


@pytest.mark.parametrize("made", ["windows", "cut"])
def test_long_chunks_are_embedded_again_by_the_rule_of_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: LongTexts
) -> None:
    manager, config = ModelManager(offline=True), dense_model(PRIMARY)
    short = make_store(3)
    store = ListStore(
        [
            replace(chunk, text=f"{chunk.text} in the river " * 40 * row + "walrus")
            for row, chunk in enumerate(short)
        ]
    )
    with manager.resident(config) as encoder:
        texts = TextEncoder(encoder, manager.tokenizer(config), config.max_tokens, made)
        vectors = texts.vectors([chunk.text for chunk in store], "document")
        dtype = encoder.dtype
    said = {"long_texts": made, "windows": 4, "chunks_in_windows": 2}
    bundle = export_embedded(tmp_path, vectors, dtype, store, **said)
    assert run_function(verify, [str(bundle), "--deep"]) == 0
    assert "3 equal bit for bit" in capsys.readouterr().out
    other = "cut" if made == "windows" else "windows"
    export_embedded(tmp_path, vectors, dtype, store, **said | {"long_texts": other})
    run_function(verify, [str(bundle), "--deep"])
    assert "1 equal bit for bit" in capsys.readouterr().out
