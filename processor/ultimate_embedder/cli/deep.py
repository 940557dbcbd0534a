"""The models of a bundle, to make vectors of its texts again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..encoders.attention_sparse import AttentionSparseEncoder
from ..encoders.protocols import Tokenizer
from ..encoders.sparse_queries import query_encoder
from ..encoders.splade_source import find_splade
from ..encoders.texts import TextEncoder
from ..errors import ModelNotAvailable, UsageError
from ..export.manifest import Manifest, read_manifest_bytes
from ..export.manifest_sections import DenseRun
from ..models.catalogue import SPARSE_MODELS, dense_model
from ..models.manager import ModelManager
from ..records import Float32Array, SparseInferenceRun, SparseVector
from ..search.loading import sparse_config


class ModelsOf:
    """Models as a bundle's manifest names them, offline and on the CPU."""

    def __init__(self, bundle: Path) -> None:
        """Remember the folder; the manifest is read when a model is asked for."""
        self._bundle = bundle
        self._manager = ModelManager(offline=True)

    def embed(self, texts: Sequence[str], key: str) -> Float32Array:
        """Return the dense vectors of documents.

        Raises:
            ModelError: the model cannot be had, or the manifest does not name it.
        """
        with self._text_encoder(key) as (encoder, _):
            return encoder.vectors(texts, "document")

    def embed_sparse(
        self, texts: Sequence[str], run: SparseInferenceRun
    ) -> list[SparseVector]:
        """Return the sparse vectors of documents by attention or SPLADE.

        Raises:
            ModelError: the model cannot be had, or its kind cannot be made again here.
        """
        if run.statistics.get("kind") == "splade":
            rule = run.statistics.get("long_texts", "windows")
            source = find_splade(sparse_config(run), offline=True, long_texts=rule)
            return query_encoder(run, source).encode_documents(texts)
        model = SPARSE_MODELS.get(run.sparse_model)
        key = model.dense_key if model else None
        if run.statistics.get("kind") != "attention" or key is None:
            raise ModelNotAvailable(
                f"models of kind '{run.statistics.get('kind')}' are not loaded for this"
            )
        with self._text_encoder(key) as (encoder, tokenizer):
            _, attended = encoder.vectors_and_attention(texts)
            sparse = AttentionSparseEncoder(tokenizer.backend, name=run.sparse_model)
            return list(sparse.encode_rows(attended))

    @contextmanager
    def _text_encoder(self, key: str) -> Iterator[tuple[TextEncoder, Tokenizer]]:
        run = self._run(key)
        try:
            config = dense_model(key)
        except UsageError as error:
            raise ModelNotAvailable(error.message) from error
        config = replace(
            config, max_tokens=run.max_tokens, document_prefix=run.document_prefix
        )
        tokenizer = self._manager.tokenizer(config)
        dtype = run.dtype if run.device == "cpu" else None
        with self._manager.resident(config, device="cpu", dtype=dtype) as encoder:
            rule = run.long_texts
            yield TextEncoder(encoder, tokenizer, config.max_tokens, rule), tokenizer

    def _run(self, key: str) -> DenseRun:
        """Return what the manifest says of a model; its own sum was checked before."""
        manifest = Manifest.parse(read_manifest_bytes(self._bundle))
        found = next((r for r in manifest.dense_run or () if r.model == key), None)
        if found is None:
            raise ModelNotAvailable(f"the manifest says nothing of a pass of {key}")
        return found
