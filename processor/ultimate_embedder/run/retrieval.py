"""Searches the bundle in the making: with the user's queries, and with probes.

Joins the fusion and rerank stages with the models that encode queries. Its results go
into the rerank file and the manifest, so that a run ends with a measured statement of
how well its bundle can be searched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ..config import RERANK_CANDIDATES, ModelConfig, PipelineConfig
from ..encoders.attention_sparse import AttentionSparseEncoder
from ..encoders.bm25 import Bm25Encoder
from ..encoders.protocols import AttentionEncoder
from ..encoders.texts import TextEncoder
from ..errors import ModelNotAvailable
from ..export.layout import BundleNames
from ..intake.measure import MeasuredCollection, MeasuredModel
from ..intake.queries import read_queries
from ..models.manager import ModelSource
from ..records import Attended, Float32Array, Query, SparseVector
from ..retrieval.fusion import FusionConfig
from ..retrieval.indexes import DenseIndex, SparseIndex
from ..retrieval.postings import Postings
from ..retrieval.probes import PROBES, RERANK_PROBES, Probe, draw_probes
from ..retrieval.quality import QualityCard
from ..search.depth import fusion_depth
from ..stages.fusion import (
    DenseLeg,
    FusionResult,
    FusionStage,
    Leg,
    MaskedRow,
    SparseLeg,
)
from ..stages.rerank import RerankResult
from ..stages.sparse import SparseResult
from ..telemetry.events import Emit, StageSkipped
from .card import (
    NO_QUESTION,
    QUERIES_RERANKED,
    SWITCHED_OFF,
    card_of,
    empty_card,
    harm_warnings,
)
from .kept_encodings import KeepingEncoder
from .reranking import Reranking


@dataclass(frozen=True, slots=True)
class RerankImpossible:
    """Rerank was asked for and could not run: why, and what would help.

    `missed`: another run may have what this one lacked, so a person is told.
    """

    reason: str
    cure: str
    missed: bool = False

    @property
    def warning(self) -> str:
        """Say so in a line of the log and of the manifest."""
        return f"rerank did not run: {self.reason} {self.cure}".rstrip()


@dataclass(frozen=True, slots=True)
class RetrievalOutcome:
    """What was ranked. `asked` tells whether rerank's queries came from the user.

    `fusion` and `fused_legs` say how search is to join rankings, measured or not; a
    card without figures says why it has none.
    """

    fusion: FusionConfig
    fused_legs: tuple[str, ...]
    card: QualityCard
    probes: FusionResult | None = None
    queries: FusionResult | None = None
    rerank: RerankResult | RerankImpossible | None = None
    asked: bool = False

    @property
    def reranked(self) -> RerankResult | None:
        """What rerank did, if it ran."""
        return self.rerank if isinstance(self.rerank, RerankResult) else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say which stages make a search in this bundle worse, or are missing."""
        primary, *sparse = self.fused_legs
        harm = tuple(harm_warnings(self.card, primary=primary, sparse=sparse))
        if isinstance(self.rerank, RerankImpossible) and self.rerank.missed:
            return (self.rerank.warning, *harm)
        return harm


@dataclass(frozen=True, slots=True)
class RetrievalRun:
    """Everything needed to search one staged collection.

    `fingerprints` stand for what a dense model's bytes follow from, by key; `kept` is
    a folder where encodings of probes outlive an interruption.
    """

    config: PipelineConfig
    manager: ModelSource
    reranking: Reranking
    emit: Emit
    run_id: str
    collection: MeasuredCollection
    vectors: dict[str, Float32Array]
    sparse: dict[str, SparseResult]
    staging: Path
    fingerprints: dict[str, str]
    kept: Path
    redact_key: bytes | None = field(default=None, repr=False)

    def run(self) -> RetrievalOutcome:
        """Rank probes and queries, rerank, and judge by the probes.

        Raises:
            ModelError: a model that was there for the documents fails on queries.
            UsageError: the file of queries cannot be used.
        """
        store = self.collection.store
        probes = (
            draw_probes(store, PROBES, self.config.seed) if self.config.probes else []
        )
        asked = read_queries(self.config.queries) if self.config.queries else []
        judged = self._rank([p.query for p in probes], probes) if probes else None
        ranked = self._rank(asked, None) if asked else None
        rerank = self._rerank(judged, ranked)
        return RetrievalOutcome(
            fusion=self._fusion,
            fused_legs=self._fused_legs,
            probes=judged,
            queries=ranked,
            rerank=rerank,
            card=self._card(probes, judged, rerank, bool(asked)),
            asked=bool(asked),
        )

    @property
    def _fused_legs(self) -> tuple[str, ...]:
        """The primary dense model and BM25, if it ran live."""
        bm25 = [
            key
            for key, result in self.sparse.items()
            if _kind(result) == "bm25" and not result.run.fallback_used
        ]
        return (self.config.primary.name, *bm25[:1])

    @property
    def _fusion(self) -> FusionConfig:
        return self.config.active_fusion.for_legs(len(self._fused_legs))

    def _rank(
        self, queries: Sequence[Query], probes: Sequence[Probe] | None
    ) -> FusionResult:
        stage = FusionStage(self._fusion, self.collection.store.collection, self.emit)
        rerank = self.config.active_rerank
        depth = fusion_depth(rerank.candidates if rerank else RERANK_CANDIDATES)
        return stage.run(
            queries,
            self._legs(queries, [p.masked_text for p in probes] if probes else None),
            self._fused_legs,
            depth,
            [MaskedRow(p.row, p.masked_text) for p in probes] if probes else None,
        )

    def _legs(
        self, queries: Sequence[Query], masked: list[str] | None
    ) -> Iterator[Leg]:
        """Yield the dense legs, one model in memory at a time, then the sparse ones."""
        attention: dict[str, list[SparseVector]] = {}
        for model in self.config.dense:
            if model.name in self.vectors:
                leg, from_attention = self._dense_leg(model, queries, masked)
                attention.update(from_attention)
                yield leg
        for measured in self.collection.models if masked else ():
            if measured.config.name not in self.vectors:
                attention.update(self._attention_alone(measured, masked or []))
        for key, result in self.sparse.items():
            sparse = self._sparse_leg(key, result, queries, masked, attention)
            if sparse is not None:
                yield sparse

    def _dense_leg(
        self, model: ModelConfig, queries: Sequence[Query], masked: list[str] | None
    ) -> tuple[DenseLeg, dict[str, list[SparseVector]]]:
        """Encode queries and masked texts while the model is in memory."""
        sharing = self._sharing(model)
        attention: dict[str, list[SparseVector]] = {}
        with self._encoding(model, keep=masked is not None) as encoder:
            encode = self._texts(encoder, self.collection.model(model.name))
            vectors = encode.vectors([query.text for query in queries], "query")
            hidden = None
            if masked and sharing:
                hidden, weighted = encode.vectors_and_attention(masked)
                attention = _words_of(sharing, weighted)
            elif masked:
                hidden = encode.vectors(masked, "document")
        index = DenseIndex(self.vectors[model.name])
        return DenseLeg(model.name, index, vectors, hidden), attention

    @contextmanager
    def _encoding(
        self, model: ModelConfig, *, keep: bool
    ) -> Iterator[AttentionEncoder]:
        """Give the model's encoder, which keeps what it makes if it is for probes."""
        with self.manager.resident(model) as encoder:
            if not keep:
                yield encoder
                return
            folder = self.kept / quote(model.name, safe="")
            keeping = KeepingEncoder(encoder, folder, self.fingerprints[model.name])
            yield keeping
            keeping.forget_others()

    def _texts(self, encoder: AttentionEncoder, model: MeasuredModel) -> TextEncoder:
        return TextEncoder(
            encoder, model.tokenizer, model.config.max_tokens, self.config.long_texts
        )

    def _attention_alone(
        self, model: MeasuredModel, masked: list[str]
    ) -> dict[str, list[SparseVector]]:
        """Encode masked texts with a model that is wanted for its attention only."""
        sharing = self._sharing(model.config)
        if not sharing:
            return {}
        with self._encoding(model.config, keep=True) as encoder:
            encode = self._texts(encoder, model)
            _, weighted = encode.vectors_and_attention(masked)
        return _words_of(sharing, weighted)

    def _sharing(self, model: ModelConfig) -> list[AttentionSparseEncoder]:
        """Return the sparse models that were made from this one's attention."""
        return [
            result.encoder
            for key, result in self.sparse.items()
            if isinstance(result.encoder, AttentionSparseEncoder)
            and self._dense_key(key) == model.name
        ]

    def _dense_key(self, sparse_key: str) -> str | None:
        """Return the dense model whose pass a sparse model shares."""
        known = {model.name: model.dense_key for model in self.config.sparse}
        return known.get(sparse_key)

    def _sparse_leg(
        self,
        key: str,
        result: SparseResult,
        queries: Sequence[Query],
        masked: list[str] | None,
        attention: dict[str, list[SparseVector]],
    ) -> SparseLeg | None:
        """Return None for a leg that cannot be judged: its masked texts have no vector.

        So it is for vectors taken from metadata, which no text can be masked in.
        """
        hidden: Sequence[SparseVector] | None = None
        if masked and _kind(result) == "bm25" and not result.run.fallback_used:
            hidden = Bm25Encoder(
                result.run.statistics["profile"],
                average_length=result.run.statistics["average_length"],
            ).encode_documents(masked)
        elif masked and _kind(result) == "splade":
            hidden = result.encoder.encode_documents(masked)
        elif masked:
            hidden = attention.get(key)
            if hidden is None:
                return None
        names = BundleNames(self.collection.store.collection)
        postings = Postings.open(self.staging / names.postings(key))
        vectors = [result.encoder.encode_query(query.text) for query in queries]
        idf = _kind(result) != "splade"  # its weights are whole, as in the engine
        return SparseLeg(key, SparseIndex(postings, idf=idf), vectors, hidden)

    def _rerank(
        self, judged: FusionResult | None, ranked: FusionResult | None
    ) -> RerankResult | RerankImpossible | None:
        config = self.config.active_rerank
        if config is None:
            return None
        rankings = (
            ranked.rankings
            if ranked
            else judged.rankings[:RERANK_PROBES]
            if judged
            else ()
        )
        if not rankings:
            reason = "there is no query to rerank"
            self._tell_skipped(reason)
            return RerankImpossible(
                reason, "Give --queries, or let probes be drawn from the collection."
            )
        store = self.collection.store
        try:
            pipeline = self.reranking.pipeline(
                config, store.collection, self.run_id, self.redact_key
            )
        except ModelNotAvailable as error:
            self._tell_skipped("its model is not here")
            return RerankImpossible(error.message, error.cure or "", missed=True)
        return pipeline.run(rankings, store, store.collection)

    def _tell_skipped(self, reason: str) -> None:
        self.emit(
            StageSkipped(
                stage="rerank",
                collection=self.collection.store.collection,
                reason=reason,
            )
        )

    def _card(
        self,
        probes: Sequence[Probe],
        judged: FusionResult | None,
        rerank: RerankResult | RerankImpossible | None,
        asked: bool,
    ) -> QualityCard:
        seed = self.config.seed
        if judged is None:
            return empty_card(NO_QUESTION if self.config.probes else SWITCHED_OFF, seed)
        ran = rerank if isinstance(rerank, RerankResult) else None
        return card_of(
            probes,
            judged,
            None if asked else ran,
            top_k=self.config.rerank.top_k if self.config.rerank else 0,
            seed=seed,
            remarks=[QUERIES_RERANKED] if asked and ran else [],
        )


def _words_of(
    sharing: Sequence[AttentionSparseEncoder], weighted: Sequence[Attended]
) -> dict[str, list[SparseVector]]:
    return {words.name: list(words.encode_rows(weighted)) for words in sharing}


def _kind(result: SparseResult) -> str:
    kind: str = result.run.statistics.get("kind", "")
    return kind
