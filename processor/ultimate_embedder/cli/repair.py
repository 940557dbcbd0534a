"""`repair`: make damaged files of a bundle again, where that can be proved right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ..export.folders import looks_like_bundle, no_bundle
from ..repair import RepairReport, repair_bundle
from ..telemetry.printable import printable

NOT_WHOLE = 1


def repair(
    bundle: Annotated[Path, typer.Argument(help="Folder of one collection's bundle.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Write the repaired bundle to this folder, leave the damaged one.",
            show_default="the bundle is replaced",
        ),
    ] = None,
    chunked_dir: Annotated[
        Path | None,
        typer.Option(
            "--chunked-dir",
            metavar="DIR",
            help="Folder whose folders are collections of chunk files: texts and "
            "metadata that can be read nowhere in the bundle are taken from there.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
) -> None:
    """Make damaged or missing files of a bundle again from its undamaged ones.

    A file is taken only if it has the sum that the manifest records; files that are
    right are not touched, and the bundle changes in one step or not at all. Indexes,
    inverted lists, vectors, ids, sparse vectors and the list of sums are made from one
    another. Texts and metadata stand in the points file alone: a damaged payload needs
    the chunk files (--chunked-dir). Reranked queries and the manifest cannot be made
    again, but for a single flipped bit in a file of up to 64 KiB.

    Exit code 0: the bundle is whole; 1: something is lost, or files stand there that do
    not belong; 2: bad usage; 3: writing failed, nothing has changed.
    """
    if not looks_like_bundle(bundle):
        raise no_bundle(bundle)
    report = repair_bundle(bundle, output=output, chunked_dir=chunked_dir)
    if as_json:
        content = orjson.dumps(report.as_dict(), option=orjson.OPT_APPEND_NEWLINE)
        sys.stdout.buffer.write(content)
    else:
        _print_report(report)
    if not report.whole:
        raise typer.Exit(NOT_WHOLE)


def _print_report(report: RepairReport) -> None:
    lines = [f"undamaged: {report.intact} files"]
    lines += [f"rebuilt: {item}" for item in report.rebuilt]
    lines += [f"lost: {item}" for item in report.lost]
    lines += [f"does not belong, left there: {path}" for path in report.strays]
    lines.append(f"{report.published or report.bundle}: {_verdict(report)}")
    for line in lines:
        sys.stdout.write(printable(line, limit=1000) + "\n")


def _verdict(report: RepairReport) -> str:
    if not report.whole:
        return "NOT WHOLE" if report.rebuilt else "NOT WHOLE, nothing was changed"
    return "repaired" if report.rebuilt else "whole, there was nothing to repair"
