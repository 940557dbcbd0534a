"""`adapt`: a reranker trained on a bundle's own probes, kept if it proves better."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RunStopped
from ..settings import decide
from ..telemetry.printable import printable
from .output import Sheet, show_sheet, stdout_format

if TYPE_CHECKING:
    from ..adaptation.report import AdaptReport
    from ..adaptation.watch import Progress

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def adapt(  # noqa: PLR0913 - each is an option
    bundle: Annotated[Path, typer.Argument(help="Folder of one collection's bundle.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Where the reranker goes if it is kept: a new folder.",
            show_default="<collection>-reranker here",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", metavar="N", help="Train for about so long, judging aside."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            min=1,
            help="Train for so many steps.",
            show_default="three rounds over the probes, at least 60 steps",
        ),
    ] = None,
    probes: Annotated[
        int,
        typer.Option(
            "--probes", metavar="N", min=1, help="The most probes that are drawn."
        ),
    ] = 1000,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="For drawing and training.")
    ] = 0,
    keep_anyway: Annotated[
        bool,
        typer.Option("--keep-anyway", help="Write the reranker even if not better."),
    ] = False,
    offline: Annotated[
        bool | None,
        typer.Option(
            "--offline/--online",
            help="Open no connection, or fetch models that are missing.",
            show_default="offline for profile embedded",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
) -> None:
    """Train a reranker on a bundle's own headings and docstrings; keep it if better.

    Questions are drawn from the bundle and taken out of the texts that answer them.
    70 % serve for training. On the others the fused ranking, the bundle's reranker and
    the adapted one are compared: the adapted one is written only if its nDCG@10 is
    higher and p < .05. The report also says whether other weights of the fusion would
    do better. Use what is written with --rerank-model of embed and search.

    Exit codes: 0 judged, kept or not; 1 a damaged bundle, or a model is missing; 2 bad
    usage, no bundle, or fewer than 60 questions can be drawn; 3 stopped, and nothing is
    kept.
    """
    from ..adaptation.choices import AdaptChoices
    from ..adaptation.from_bundle import adapt as adapted
    from ..export.manifest import Manifest

    if offline is None:
        offline = decide({})[0]["offline"].value
    if output is None:
        collection = Manifest.read(bundle).collection
        output = Path(_UNFIT.sub("-", collection).strip("-._") + "-reranker")
    choices = AdaptChoices(
        probes=probes,
        steps=steps,
        minutes=minutes,
        seed=seed,
        keep_anyway=keep_anyway,
        offline=offline,
    )
    try:
        report = adapted(bundle, output, choices, say=_say, progress=_progress)
    except KeyboardInterrupt as error:
        raise RunStopped(
            "Stopped; nothing of it is kept.", cure="The same command starts anew."
        ) from error
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        return
    _show(report)


def _show(report: AdaptReport) -> None:
    rows = tuple(
        (stage, f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}")
        for stage, found in report.stages.items()
    )
    title = f"{report.collection}: {report.judged:,} probes not trained on"
    sheet = Sheet(
        title=title,
        columns=("stage", "nDCG@10", "95 % interval"),
        rows=rows,
        numbers=("nDCG@10",),
    )
    show_sheet(sheet, style=stdout_format())
    _print(f"reranker: {report.decision}")
    _print(f"fusion: {report.fusion_advice}")
    if report.fusion.expression is not None:
        _print(f"Build or search with --fusion '{report.fusion.expression}'.")
    if report.folder is not None:
        _print(f"Use it with --rerank-model {report.folder}.")


def _say(line: str) -> None:
    sys.stderr.write(printable(line, limit=1000) + "\n")


def _progress(done: Progress) -> None:
    line = f"step {done.step:,} of {done.steps:,}, {done.seconds:,.0f} s"
    if done.held_out is not None:
        line += f", loss on probes held out {done.held_out:.3f}"
    elif done.loss:
        line += f", loss {done.loss:.3f} (fused alone {done.fused:.3f})"
    _say(line)


def _print(line: str) -> None:
    sys.stdout.write(printable(line, limit=1000) + "\n")
