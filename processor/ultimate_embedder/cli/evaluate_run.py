"""What `evaluate` judges: corpora through the main job, or a bundle as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..config import PipelineConfig
from ..errors import RunStopped, UsageError
from ..evaluation.beir import find_beir_folders
from ..evaluation.chunk_files import Treatment
from ..evaluation.evaluate import JudgedCorpora, evaluate_existing
from ..evaluation.judged_bundle import EvaluationChoices, JudgedSet
from ..evaluation.report import Evaluation
from ..evaluation.trec_runs import write_runs
from ..search import open_bundle
from ..telemetry.events import Emit
from .embed_options import Given

_FOR_BUNDLES = {"rerank_model", "enable_rerank", "fusion", "offline", "seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of `evaluate` that are no settings of the main job."""

    bundle: Path | None
    data: Path | None
    queries: Path | None
    qrels: Path | None
    sets: tuple[str, ...]
    split: str | None
    documents: Literal["whole", "chunked", "both"] | None
    text_format: str | None
    work_dir: Path | None
    runs: Path | None


def refuse_misfits(asked: Asked, given: Given) -> None:
    """Return when the options say one thing: judge corpora, or a bundle.

    Raises:
        UsageError: they name both or neither, or one that has no meaning there.
    """
    if asked.bundle is not None and asked.data is not None:
        raise UsageError("Give --data or a bundle, not both.")
    if asked.bundle is None and asked.data is None:
        raise UsageError(
            "Either --data or a bundle is needed.",
            cure="A bundle also needs --queries and --qrels.",
        )
    if asked.bundle is None:
        for option in ("queries", "qrels"):
            if getattr(asked, option) is not None:
                raise UsageError(f"--{option} belongs to a bundle, not to --data.")
        return
    if asked.queries is None or asked.qrels is None:
        raise UsageError("A bundle is judged by --queries FILE and --qrels FILE.")
    for option in ("sets", "split", "documents", "text_format", "work_dir"):
        if getattr(asked, option):
            name = option.replace("_", "-")
            raise UsageError(f"--{name} belongs to --data, not to a bundle.")
    for key in given.keys() - _FOR_BUNDLES:
        raise UsageError(
            f"{given[key][1]} says how a bundle is made; this one exists.",
            cure="Leave it out, or use --data.",
        )
    for option, file in (("queries", asked.queries), ("qrels", asked.qrels)):
        if not file.exists():
            raise UsageError(f"There is no file {file} (--{option}).")


def judge(
    asked: Asked,
    given: Given,
    config: PipelineConfig,
    choices: EvaluationChoices,
    emit: Emit,
) -> Evaluation:
    """Return the figures of what is asked; `refuse_misfits` has passed it.

    Raises:
        EmbedderError: all stopped; what ails one set alone stands in the figures.
    """
    if asked.bundle is None:
        return _judge_corpora(asked, config, choices, emit)
    return _judge_bundle(asked, given, config, choices, emit)


def _judge_corpora(
    asked: Asked, config: PipelineConfig, choices: EvaluationChoices, emit: Emit
) -> Evaluation:
    assert asked.data is not None  # noqa: S101 - checked above
    folders = find_beir_folders(asked.data, asked.split or "test", asked.sets)
    treatments: dict[str, tuple[Treatment, ...]] = {
        "whole": ("whole",),
        "chunked": ("chunked",),
        "both": ("whole", "chunked"),
    }
    with _work_folder(asked.work_dir) as work_dir:
        return JudgedCorpora(
            folders=folders,
            treatments=treatments[asked.documents or "whole"],
            config=_for_judging(config, choices),
            choices=choices,
            work_dir=work_dir,
            emit=emit,
            extension=asked.text_format or "txt",
        ).evaluate(_keeper(asked))


def _judge_bundle(
    asked: Asked,
    given: Given,
    config: PipelineConfig,
    choices: EvaluationChoices,
    emit: Emit,
) -> Evaluation:
    assert asked.bundle and asked.queries and asked.qrels  # noqa: S101 - checked above
    opened = open_bundle(
        asked.bundle,
        offline=config.offline,
        fusion=config.fusion if "fusion" in given else None,
        rerank=config.rerank if "rerank_model" in given else None,
    )
    with opened:
        return evaluate_existing(
            opened, asked.queries, asked.qrels, choices, emit, _keeper(asked)
        )


def _for_judging(config: PipelineConfig, choices: EvaluationChoices) -> PipelineConfig:
    """Return the main job's settings for bundles that are only searched."""
    return replace(
        config,
        queries=None,
        baseline=None,
        exports=("npy", "jsonl"),
        jsonl_layout="qdrant",
        enable_rerank=config.enable_rerank and choices.rerank_queries != 0,
    )


def _keeper(asked: Asked) -> Callable[[JudgedSet], None]:
    def keep(done: JudgedSet) -> None:
        if asked.runs is not None:
            report = done.report
            label = report.name
            if asked.documents == "both":
                label = f"{label}.{report.treatment}"
            write_runs(asked.runs, label, done.rankings)

    return keep


@contextmanager
def _work_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="ultimate-embedder-") as folder:
        try:
            yield Path(folder)
        except (KeyboardInterrupt, RunStopped) as error:
            why = error.message if isinstance(error, RunStopped) else "Stopped."
            raise RunStopped(
                f"{why} The temporary work folder is gone.",
                cure="With --work-dir DIR the same command would go on from here.",
            ) from error
