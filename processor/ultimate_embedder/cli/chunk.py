"""`chunk`: files -> chunk JSON, on the CPU, without any model's weights."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer

from ..chunking.document import ChunkSettings
from ..chunking.folder import CollectionReport, chunk_folder
from ..chunking.one_file import ChunkJob
from ..chunking.tokens import MIN_BUDGET
from ..config import ModelConfig
from ..encoders.sources import locate_model
from ..errors import UsageError
from ..models.catalogue import PROFILES, dense_model, profile, sparse_model
from ..models.choice import choose_dense
from ..settings import ReportingConfig, decide
from ..telemetry.printable import printable
from .errors_out import EXIT_FAILED, say
from .listeners import listening
from .output import Sheet, count, rate, show_sheet, stdout_format

DEFAULT_LIMIT = 512

_FATES = {
    "found": "documents",
    "chunked": "chunked",
    "kept": "unchanged",
    "empty": "empty",
    "set aside": "quarantined",
    "skipped": "skipped",
    "removed": "removed",
}
_AMOUNTS = ("chunks", "tokens", "new chunks", "new chunks/s")


def chunk(  # noqa: PLR0913 - each is an option
    *,
    input_dir: Annotated[
        Path,
        typer.Option(
            "--input-dir",
            metavar="DIR",
            help="Folder whose first-level folders are collections of documents.",
        ),
    ],
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            metavar="DIR",
            help="Where the chunk files go, in the same tree.",
        ),
    ] = Path("Chunked"),
    collections: Annotated[
        list[str] | None,
        typer.Option(
            "--collections",
            metavar="NAME...",
            help="Only these collections.",
            show_default="all that are found",
        ),
    ] = None,
    profile_name: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="|".join(PROFILES),
            help="Roster of models that the chunks must fit.",
            show_default="as for embed: embedded; on Kaggle kaggle-t4x2",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="KEY",
            help="Whose tokens are counted: a key of 'models list', a folder or "
            "ORG/NAME.",
            show_default="the profile's first dense model",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            metavar="N",
            help="Most tokens of a chunk, special tokens and prompt counted.",
            show_default="512, or the smallest window of the profile",
        ),
    ] = None,
    overlap: Annotated[
        int,
        typer.Option(
            "--overlap",
            metavar="N",
            help="Tokens of the chunk before to repeat, in whole words.",
        ),
    ] = 0,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            metavar="N",
            min=0,
            help="Processes, 0 for one a core; the number changes no byte.",
        ),
    ] = 0,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Chunk unchanged files again too."),
    ] = False,
    offline: Annotated[
        bool | None,
        typer.Option(
            "--offline/--online",
            help="Open no connection, or fetch a tokenizer that is missing.",
            show_default="offline for profile embedded",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
    log_format: Annotated[
        Literal["rich", "plain", "json"] | None,
        typer.Option(
            "--log-format",
            help="json writes one object a line to standard error.",
            show_default="rich on a terminal, else plain",
        ),
    ] = None,
) -> None:
    """Cut documents and code into chunks: a JSON file for each source file.

    Only files that changed since the last run are chunked; the chunk files of deleted
    sources are removed, or named where the record of earlier runs is lost. Files that
    cannot be read are set aside with a reason.

    Exit codes: 0 all collections are done; 1 one had no usable document; 2 bad usage;
    3 stopped before the end, and the same command resumes.
    """
    given = {} if profile_name is None else {"profile": (profile_name, "--profile")}
    decided, _ = decide(given)
    profile_name = decided["profile"].value
    offline = decided["offline"].value if offline is None else offline
    config = _model(model, profile_name, offline)
    limit = _limit(max_tokens, config, profile_name)
    location = locate_model(
        config.hf_model_id,
        revision=config.revision,
        package=config.package,
        offline=offline,
        backend=config.backend,
    )
    job = ChunkJob(
        input_dir=input_dir,
        output_dir=output_dir,
        settings=ChunkSettings(config.name, limit, overlap),
        tokenizer_path=location.path,
        prompt=config.document_prefix,
        collections=tuple(collections or ()),
        workers=workers,
        fresh=fresh,
    )
    style = stdout_format(log_format)
    with listening(ReportingConfig(log_format=log_format), style) as emit:
        reports = chunk_folder(job, emit)
    if as_json:
        _print_json(job, reports)
    else:
        for sheet in (_documents(job, reports), _chunks(job, reports)):
            show_sheet(sheet, style=style)
        if style != "json":
            _tell_skipped(reports)
    failed = [report for report in reports if report.failed]
    if style != "json":  # there every line is an object, and the log has told of it
        for report in failed:
            folder = job.input_dir / report.name
            say(
                "error",
                f"{report.name}: {report.reason} Look at the files in {folder}.",
            )
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _model(key: str | None, profile_name: str, offline: bool) -> ModelConfig:
    roster = profile(profile_name)
    return choose_dense(roster.dense[0] if key is None else key, offline=offline)


def _limit(asked: int | None, model: ModelConfig, profile_name: str) -> int:
    """Return the limit in tokens.

    Raises:
        UsageError: more was asked for than the model's window holds, or too little.
    """
    if asked is None:
        return min(DEFAULT_LIMIT, model.max_tokens, *_windows(profile_name))
    if asked > model.max_tokens:
        raise UsageError(
            f"--max-tokens {asked} is more than the window of {model.name}, "
            f"{model.max_tokens}: chunks would not fit it.",
            cure=f"Use at most {model.max_tokens}, or another --model.",
        )
    if asked < MIN_BUDGET:
        raise UsageError(
            f"--max-tokens {asked} is too little: at least {MIN_BUDGET} are needed for "
            "text, beside special tokens and prompt.",
            cure=f"Use {2 * MIN_BUDGET} or more.",
        )
    return asked


def _windows(profile_name: str) -> list[int]:
    """Return the windows of a profile's models; BM25 reads texts of any length."""
    roster = profile(profile_name)
    sparse = [sparse_model(key) for key in roster.sparse]
    return [dense_model(key).max_tokens for key in roster.dense] + [
        one.max_tokens for one in sparse if one.kind != "bm25"
    ]


def _print_json(job: ChunkJob, reports: Sequence[CollectionReport]) -> None:
    document = {
        "input_dir": str(job.input_dir),
        "output_dir": str(job.output_dir),
        "settings": dataclasses.asdict(job.settings),
        "collections": [dataclasses.asdict(report) for report in reports],
    }
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


def _documents(job: ChunkJob, reports: Sequence[CollectionReport]) -> Sheet:
    """Return what became of the documents; a figure that is 0 everywhere is left out,
    or the table would not fit a terminal of 80 columns."""
    names = [
        name
        for name in _FATES
        if name == "found" or any(_figure(report, name) for report in reports)
    ]
    return Sheet(
        title=f"Documents in {job.input_dir}",
        columns=("collection", *names),
        rows=tuple(
            (report.name, *(count(_figure(report, name)) for name in names))
            for report in reports
        ),
        numbers=tuple(names),
    )


def _chunks(job: ChunkJob, reports: Sequence[CollectionReport]) -> Sheet:
    settings = job.settings
    return Sheet(
        title=f"Chunks of at most {settings.max_tokens} tokens of {settings.tokenizer}"
        f" in {job.output_dir}",
        columns=("collection", *_AMOUNTS),
        rows=tuple(
            (
                report.name,
                count(report.chunks),
                count(report.tokens),
                count(report.new_chunks),
                rate(report.new_chunks, report.seconds) if report.new_chunks else "-",
            )
            for report in reports
        ),
        numbers=_AMOUNTS,
    )


def _tell_skipped(reports: Sequence[CollectionReport]) -> None:
    """Say which files are of no format that is read, the most frequent first."""
    for report in reports:
        if report.skipped:
            kinds = sorted(report.skipped.items(), key=lambda item: (-item[1], item[0]))
            told = ", ".join(f"{count(files)} {kind}" for kind, files in kinds)
            line = f"{report.name}: skipped: {told}"
            sys.stdout.write(printable(line, limit=1000) + "\n")


def _figure(report: CollectionReport, name: str) -> int:
    if name == "skipped":
        return sum(report.skipped.values())
    figure: int = getattr(report, _FATES[name])
    return figure
