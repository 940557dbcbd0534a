"""The encoder of sparse queries, from what a run left behind."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from ..errors import ModelError, ModelMismatch, ModelNotAvailable
from ..records import SparseInferenceRun
from .attention_sparse import AttentionSparseEncoder
from .bm25 import Bm25Encoder
from .protocols import SparseEncoder
from .splade_queries import SpladeQueries
from .splade_source import SpladeSource


def query_encoder(
    run: SparseInferenceRun, vocabulary: Tokenizer | Path | SpladeSource | None = None
) -> SparseEncoder:
    """Return the encoder whose queries fit the document vectors of `run`.

    `vocabulary` is the tokenizer of the model, or its `tokenizer.json` or the folder
    with it; only attention vectors made live need it. Vectors made from chunk metadata
    hold stems of whole words, so their queries are cut as BM25's. SPLADE encodes a
    query as a document, so it needs the whole model, a `SpladeSource`.

    Raises:
        ModelNotAvailable: the tokenizer or the model is needed and is not there.
        ModelMismatch: the model has not the vocabulary that the run had.
        ModelError: the run is of a kind that has no query encoder here.
    """
    kind = run.statistics.get("kind")
    if kind == "bm25" or (kind == "attention" and run.fallback_used):
        return Bm25Encoder(run.statistics["profile"], name=run.sparse_model)
    if kind == "splade":
        return _splade(run, vocabulary)
    if isinstance(vocabulary, SpladeSource) or kind != "attention":
        raise ModelError(
            f"There is no query encoder for {run.sparse_model}, a sparse model of kind "
            f"'{kind}'."
        )
    if not isinstance(vocabulary, Tokenizer):
        vocabulary = _read(run.sparse_model, vocabulary)
    return AttentionSparseEncoder(vocabulary, name=run.sparse_model)


def _splade(run: SparseInferenceRun, source: object) -> SpladeQueries:
    if not isinstance(source, SpladeSource):
        raise ModelNotAvailable(
            f"Queries for {run.sparse_model} need its model.",
            cure="Search with another stage, or bring the model along.",
        )
    size = run.statistics.get("vocabulary_size", source.vocabulary_size)
    if size != source.vocabulary_size:
        raise ModelMismatch(
            f"The vectors of {run.sparse_model} have a vocabulary of {size}; the model "
            f"here has one of {source.vocabulary_size}.",
            cure="Use the model that the bundle was built with, or build it anew.",
        )
    return SpladeQueries(source)


def _read(model: str, path: Path | None) -> Tokenizer:
    if path is not None and path.is_dir():
        path = path / "tokenizer.json"
    if path is None or not path.is_file():
        raise ModelNotAvailable(
            f"Queries for {model} need the tokenizer of its model"
            f"{'' if path is None else f', and {path} does not exist'}.",
            cure="Search with another stage, or give the folder of the model.",
        )
    vocabulary: Tokenizer = Tokenizer.from_file(str(path))
    vocabulary.no_truncation()
    vocabulary.no_padding()
    return vocabulary
