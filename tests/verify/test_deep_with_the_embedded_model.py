"""`verify --deep` loads the model the bundle names and repeats its vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_parts import PRIMARY, dense_run, make_manifest, make_store

from processor.ultimate_embedder.catalogue import dense_model
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.export.runtime import ExportRuntime
from processor.ultimate_embedder.model_manager import ModelManager
from processor.ultimate_embedder.records import Float32Array


def export_embedded(output: Path, vectors: Float32Array, dtype: str) -> Path:
    store, dense = make_store(len(vectors)), {PRIMARY: vectors}
    run = dense_run(PRIMARY, len(vectors), 384, dtype=dtype)
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
