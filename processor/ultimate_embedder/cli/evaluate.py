"""`evaluate`: queries and judgements -> figures of every stage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer

from ..errors import OutputError
from ..evaluation.judged_bundle import EvaluationChoices
from ..evaluation.report import Evaluation
from ..settings import resolve
from ..telemetry.printable import printable
from .embed_options import own_parameters, setting_parameters, typed, with_parameters
from .errors_out import EXIT_FAILED, say
from .evaluate_run import Asked, judge, refuse_misfits
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
_RERANK_QUERIES = 100


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
    asked = Asked(
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
    refuse_misfits(asked, command_line)
    settings = resolve(command_line)
    rerank = settings.pipeline.active_rerank is not None
    choices = EvaluationChoices(
        rerank_queries=rerank_queries if rerank else 0,
        rerank_depth=rerank_depth,
        seed=settings.pipeline.seed,
    )
    style = stdout_format()
    with listening(settings.reporting, style) as emit:
        found = judge(asked, command_line, settings.pipeline, choices, emit)
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
