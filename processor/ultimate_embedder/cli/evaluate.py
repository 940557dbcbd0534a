"""`evaluate`: queries and judgements -> figures of every stage."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer

from ..config import PipelineConfig
from ..errors import OutputError, RunStopped, UsageError
from ..evaluation.beir import find_beir_folders
from ..evaluation.chunk_files import Treatment
from ..evaluation.evaluate import JudgedCorpora, evaluate_existing
from ..evaluation.judged_bundle import EvaluationChoices, JudgedSet
from ..evaluation.report import Evaluation
from ..evaluation.trec_runs import write_runs
from ..search import open_bundle
from ..settings import Settings, resolve
from ..telemetry.events import Emit
from ..telemetry.printable import printable
from .embed_options import (
    Given,
    own_parameters,
    setting_parameters,
    typed,
    with_parameters,
)
from .errors_out import EXIT_FAILED, say
from .evaluate_tables import LEGEND, card_line, markdown, sheets
from .listeners import listening
from .output import Format, show_sheet, stdout_format

_SETTINGS = (
    "profile",
    "ensemble_models",
    "sparse_models",
    "rerank_model",
    "enable_sparse",
    "enable_rerank",
    "rerank_batch_cap",
    "bm25_profile",
    "fusion",
    "long_texts",
    "probes",
    "device",
    "gpu_memory_cap",
    "gpu_wait",
    "workers",
    "offline",
    "seed",
)
_FOR_BUNDLES = {"rerank_model", "enable_rerank", "fusion", "offline", "seed"}
_RERANK_QUERIES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The options that are no settings of the main job."""

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


def _with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the main job's options that apply here behind its own."""
    own = own_parameters(function)
    return with_parameters(function, [*own, *setting_parameters(_SETTINGS)])


@_with_settings
def evaluate(  # noqa: PLR0913 - each is an option
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Folder of one collection's bundle, instead of --data."),
    ] = None,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="BEIR folder (corpus.jsonl, queries.jsonl, qrels/), or a folder of "
            "such folders.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--sets",
            metavar="NAME",
            help="Only this folder of --data; may be repeated.",
            show_default="all that are found",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Which judgements of --data: qrels/NAME.tsv.",
            show_default="test",
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            metavar="FILE",
            help='For a bundle: JSON lines {"_id", "text"}.',
        ),
    ] = None,
    qrels: Annotated[
        Path | None,
        typer.Option(
            "--qrels",
            metavar="FILE",
            help="For a bundle: judgements in TREC's four columns or BEIR's three; "
            "ids are those of chunks or of their sources.",
        ),
    ] = None,
    documents: Annotated[
        Literal["whole", "chunked", "both"] | None,
        typer.Option(
            "--documents",
            help="Each document of --data as one chunk, or cut by the chunker, its "
            "best chunk counting.",
            show_default="whole",
        ),
    ] = None,
    text_format: Annotated[
        str | None,
        typer.Option(
            "--text-format",
            metavar="EXTENSION",
            help="How the chunker reads documents: as txt, md, py and the like.",
            show_default="txt",
        ),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "--work-dir",
            metavar="DIR",
            help="Keep chunk files and bundles there, and resume from them.",
            show_default="a temporary folder",
        ),
    ] = None,
    rerank_queries: Annotated[
        int,
        typer.Option(
            "--rerank-queries",
            metavar="N",
            help="Rerank so many queries of a set, drawn by their ids; -1 for all, 0 "
            "for none.",
            min=-1,
        ),
    ] = _RERANK_QUERIES,
    rerank_depth: Annotated[
        int | None,
        typer.Option(
            "--rerank-depth",
            metavar="N",
            help="Candidates of a query.",
            min=1,
            show_default="those of a search: the reranker's",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
    runs: Annotated[
        Path | None,
        typer.Option(
            "--runs", metavar="DIR", help="Write TREC run files, one for each stage."
        ),
    ] = None,
    markdown_file: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write the table as Markdown."),
    ] = None,
    **given: object,
) -> None:
    """Judge every stage of a search by queries whose relevant documents are known.

    With --data the corpus goes through the main job first; a bundle that exists is
    judged as it is. nDCG@10, MRR@10, recall and the share of judged documents, each
    with a 95 % interval, and paired tests between stages.

    Exit codes: 0 every set is judged; 1 one could not be, or an input is damaged; 2 bad
    usage; 3 stopped before the end, and the same command with --work-dir resumes.
    """
    asked = _Asked(
        bundle=bundle,
        data=data,
        queries=queries,
        qrels=qrels,
        sets=tuple(sets or ()),
        split=split,
        documents=documents,
        text_format=text_format,
        work_dir=work_dir,
        runs=runs,
    )
    command_line = typed(given)
    _refuse_misfits(asked, command_line)
    settings = resolve(command_line)
    rerank = settings.pipeline.active_rerank is not None
    choices = EvaluationChoices(
        rerank_queries=rerank_queries if rerank else 0,
        rerank_depth=rerank_depth,
        seed=settings.pipeline.seed,
    )
    style = stdout_format()
    with listening(settings.reporting, style) as emit:
        judge = _judge_corpora if bundle is None else _judge_bundle
        found = judge(asked, command_line, settings, choices, emit)
    if markdown_file is not None:
        _write(markdown_file, markdown(found))
    if as_json:
        document = orjson.dumps(found.as_json(), option=orjson.OPT_APPEND_NEWLINE)
        sys.stdout.buffer.write(document)
    else:
        _show(found, style)
    for failed in found.failed:
        say("error", f"{failed.name}, {failed.treatment}: {failed.error}")
    if found.failed:
        raise typer.Exit(EXIT_FAILED)


def _refuse_misfits(asked: _Asked, given: Given) -> None:
    """Return when the options say one thing: judge corpora, or a bundle.

    Raises:
        UsageError: they name both or neither, or one that has no meaning there.
    """
    if (asked.bundle is None) == (asked.data is None):
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


def _judge_corpora(
    asked: _Asked,
    _: Given,
    settings: Settings,
    choices: EvaluationChoices,
    emit: Emit,
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
            config=_for_judging(settings.pipeline, choices),
            choices=choices,
            work_dir=work_dir,
            emit=emit,
            extension=asked.text_format or "txt",
        ).evaluate(_keeper(asked))


def _judge_bundle(
    asked: _Asked,
    given: Given,
    settings: Settings,
    choices: EvaluationChoices,
    emit: Emit,
) -> Evaluation:
    assert asked.bundle and asked.queries and asked.qrels  # noqa: S101 - checked above
    config = settings.pipeline
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


def _keeper(asked: _Asked) -> Callable[[JudgedSet], None]:
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


def _show(found: Evaluation, style: Format) -> None:
    for sheet, below in sheets(found):
        show_sheet(sheet, style=style)
        _print(*(f"  {line}" for line in below), "")
    if found.sets:
        _print(*LEGEND)
    total = found.card_agreement
    if total is not None and len(found.sets) > 1:
        _print(card_line(total))


def _print(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(printable(line, limit=1000) + "\n")
    sys.stdout.flush()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"Writing {path} failed: {error.strerror}.",
            cure="Choose a file that can be written (--markdown).",
        ) from error
