"""Judged collections through the real pipeline, or a bundle that exists, to figures.

work folder/<treatment>/chunked/<set>/   chunk files of the corpus
work folder/<treatment>/bundles/<set>/   what the main job makes of them
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..batch_runner import BatchRunner
from ..config import PipelineConfig
from ..errors import EmbedderError, RunStopped
from ..intake.queries import read_queries
from ..models.manager import ModelManager
from ..run.parts import Parts
from ..search import Bundle, open_bundle
from ..search.query_encoders import QueryEncoders
from ..telemetry.events import Emit
from .beir import BeirFolder
from .chunk_files import DocumentChunker, Treatment, whole, write_chunk_files
from .documents import documents_of
from .judge import stage_table
from .judged_bundle import (
    EvaluationChoices,
    JudgedQueries,
    JudgedSet,
    evaluate_bundle,
    judged_queries,
)
from .judgements import read_judgements
from .report import Evaluation, FailedSet, MeanReport

OpenBundle = Callable[[Path], Bundle]
Keep = Callable[[JudgedSet], None]
"""Takes each set as it is done, e.g. to write its runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedCorpora:
    """Judged collections and how their documents are treated.

    `config` is the main job's; its folders are set here. `parts` and `encoders` stand
    in for real models. `extension` says in which format documents are chunked.
    """

    folders: Sequence[BeirFolder]
    treatments: Sequence[Treatment]
    config: PipelineConfig
    choices: EvaluationChoices
    work_dir: Path
    emit: Emit
    extension: str = "txt"
    parts: Parts | None = field(default=None, repr=False)
    encoders: QueryEncoders | None = field(default=None, repr=False)

    def evaluate(self, keep: Keep) -> Evaluation:
        """Build a bundle for each set and treatment, and judge its rankings.

        A set that fails is reported and the next one goes on.

        Raises:
            UsageError: a setting or a file cannot be used; nothing was built.
            InputError: a corpus or its judgements cannot be used.
            RunStopped: the run ended early; the same work folder resumes it.
        """
        judged = {
            folder.name: judged_queries(
                read_queries(folder.queries), folder.judgements()
            )
            for folder in self.folders
        }
        done: list[JudgedSet] = []
        failed: list[FailedSet] = []
        for treatment in self.treatments:
            for one in self._treated(treatment, judged):
                if isinstance(one, FailedSet):
                    failed.append(one)
                else:
                    done.append(one)
                    keep(one)
        return Evaluation(
            settings=_settings(self.config, self.choices),
            sets=tuple(one.report for one in done),
            means=tuple(_means(done, self.choices.seed)),
            failed=tuple(failed),
        )

    def _treated(
        self, treatment: Treatment, judged: dict[str, JudgedQueries]
    ) -> Iterator[JudgedSet | FailedSet]:
        """Yield each set's figures as they come, with what failed among them."""
        root = self.work_dir / treatment
        sizes = self._write_chunks(treatment, root / "chunked")
        config = replace(
            self.config,
            chunked_dir=root / "chunked",
            output_dir=root / "bundles",
            collections=tuple(folder.name for folder in self.folders),
        )
        run_id = uuid.uuid4().hex[:12]
        outcome = BatchRunner(
            config, self.emit, run_id, self.parts, leave_up_to_date=True
        ).run()
        for one in outcome.collections:
            if one.bundle is None:
                yield FailedSet(
                    name=one.name, treatment=treatment, error=str(one.error)
                )
                continue
            try:
                size = sizes[one.name]
                yield self._judge(one.bundle, judged[one.name], size, treatment)
            except RunStopped:
                raise
            except EmbedderError as error:
                yield FailedSet(name=one.name, treatment=treatment, error=str(error))

    def _write_chunks(self, treatment: Treatment, chunked: Path) -> dict[str, int]:
        """Write the chunk files; return how many documents each set has."""
        cut = whole
        if treatment == "chunked":
            models = self.parts.models if self.parts else None
            cut = DocumentChunker(
                self.config,
                models or ModelManager(offline=self.config.offline),
                self.extension,
            ).__call__
        sizes = {}
        for folder in self.folders:
            documents = folder.documents()
            write_chunk_files(chunked / folder.name, cut(documents))
            sizes[folder.name] = len(documents)
        return sizes

    def _judge(
        self, bundle: Path, judged: JudgedQueries, size: int, treatment: Treatment
    ) -> JudgedSet:
        opened = open_bundle(
            bundle,
            self.encoders,
            offline=self.config.offline,
            rerank=self.config.active_rerank,  # also where there was no probe to rerank
        )
        with opened:
            documents = documents_of(opened, judged.judgements)
            blank = size - len(documents)
            note = f"Documents without text, left out: {blank:,} of {size:,}."
            return evaluate_bundle(
                opened,
                documents,
                replace(judged, notes=(*judged.notes, *([note] if blank else []))),
                self.choices,
                self.emit,
                treatment=treatment,
            )


def evaluate_existing(
    bundle: Bundle,
    queries: Path,
    judgements: Path,
    choices: EvaluationChoices,
    emit: Emit,
    keep: Keep,
) -> Evaluation:
    """Return the figures of an opened bundle for queries and judgements from files.

    Raises:
        UsageError: a file cannot be read.
        InputError: a file's content cannot be used, or nothing of it fits the bundle.
        ModelNotAvailable: no ranking can be made.
    """
    judged = judged_queries(read_queries(queries), read_judgements(judgements))
    documents = documents_of(bundle, judged.judgements)
    done = evaluate_bundle(bundle, documents, judged, choices, emit)
    keep(done)
    settings = {
        "bundle": bundle.manifest.collection,
        "run_id": bundle.manifest.run_id,
        "fusion": str(bundle.fusion),
        **_choices(choices, bundle.rerank_candidates),
    }
    return Evaluation(settings=settings, sets=(done.report,))


def _means(done: Sequence[JudgedSet], seed: int) -> Iterator[MeanReport]:
    """Yield the mean over sets for each treatment that more than one set has."""
    for treatment in dict.fromkeys(one.report.treatment for one in done):
        sets = [one for one in done if one.report.treatment == treatment]
        if len(sets) < 2:
            continue
        reranked = [one.reranked for one in sets if one.reranked]
        yield MeanReport(
            treatment=treatment,
            sets=tuple(one.report.name for one in sets),
            all_stages=stage_table([one.whole for one in sets], seed),
            reranked=stage_table(reranked, seed)
            if len(reranked) == len(sets)
            else None,
        )


def _choices(choices: EvaluationChoices, candidates: int | None) -> dict[str, Any]:
    return {
        "rerank_queries": choices.rerank_queries,
        "rerank_depth": choices.rerank_depth or candidates,
        "seed": choices.seed,
    }


def _settings(config: PipelineConfig, choices: EvaluationChoices) -> dict[str, Any]:
    rerank = config.active_rerank
    return {
        "profile": config.profile,
        "dense": [model.name for model in config.dense],
        "sparse": [model.name for model in config.active_sparse],
        "fusion": str(config.active_fusion),
        "rerank": rerank.name if rerank else None,
        "bm25_profile": config.bm25_profile,
        "long_texts": config.long_texts,
        **_choices(choices, rerank.candidates if rerank else None),
    }
