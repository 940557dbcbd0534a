"""`upload`: a bundle into Qdrant, counted and compared afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from ..delivery.bundle_points import UploadPlan, plan_upload
from ..delivery.edge_store import EdgeStore
from ..delivery.layout import Store
from ..delivery.qdrant_store import QdrantStore
from ..delivery.upload import UploadReport, send_bundle
from ..errors import UsageError
from ..settings import in_notebook
from ..telemetry.printable import printable
from .output import is_terminal


def upload(  # noqa: PLR0913, PLR0917 - an argument for each option
    bundle: Annotated[Path, typer.Argument(help="Folder of one collection's bundle.")],
    url: Annotated[
        str | None, typer.Option(help="Address of a Qdrant server.", metavar="URL")
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(help="Folder of qdrant-client's local mode.", metavar="DIR"),
    ] = None,
    edge: Annotated[
        Path | None,
        typer.Option(
            help="Folder for Qdrant Edge, the embedded engine; the collection becomes "
            "a folder in it.",
            metavar="DIR",
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(help="Name of the collection there; the bundle's unless given."),
    ] = None,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Remove the collection first.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
    api_key: Annotated[
        str | None,
        # Hidden: on a command line every user of the machine could read it.
        typer.Option(envvar="QDRANT_API_KEY", hidden=True),
    ] = None,
) -> None:
    """Load a bundle into Qdrant: by address, into a local folder, or embedded.

    The collection is made when missing, with a named vector for each model; one that
    does not fit is refused. Repeating an upload changes nothing. At the end points are
    counted and a sample is compared. A server's key is read from QDRANT_API_KEY.
    """
    target = _target(url, path, edge, api_key)
    plan = plan_upload(bundle, collection)
    if dry_run:
        _show_plan(plan, target.place, as_json=as_json)
        return
    with (
        closing(target.open(plan.collection)) as store,
        _progress(plan, quiet=as_json) as advance,
    ):
        report = send_bundle(plan, store, recreate=recreate, advance=advance)
    _show_report(report, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to, and how to open a collection there."""

    place: str
    open: Callable[[str], Store]


def _target(
    url: str | None, path: Path | None, edge: Path | None, api_key: str | None
) -> _Target:
    match (url, path, edge):
        case (str(), None, None):
            return _Target(url, lambda name: QdrantStore.at_url(url, name, api_key))
        case (None, Path(), None):
            return _Target(str(path), lambda name: QdrantStore.in_folder(path, name))
        case (None, None, Path()):
            return _Target(str(edge), lambda name: EdgeStore(edge, name))
        case _:
            raise UsageError("Give exactly one of --url, --path and --edge.")


@contextmanager
def _progress(plan: UploadPlan, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while points travel, where that is a terminal."""
    console = Console(file=sys.stderr, force_jupyter=False)
    shown = is_terminal(sys.stderr) and not in_notebook() and not quiet
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shown,
    ) as progress:
        task = progress.add_task("points", total=plan.points)
        yield lambda points: progress.advance(task, points)


def _print_json(document: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))


def _print(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(printable(line, limit=1000) + "\n")


def _show_plan(plan: UploadPlan, place: str, *, as_json: bool) -> None:
    vectors = plan.layout.vectors()
    if as_json:
        _print_json(
            {
                "dry_run": True,
                "target": place,
                "collection": plan.collection,
                "points": plan.points,
                "bytes": plan.bytes,
                "vectors": vectors,
            }
        )
        return
    _print(
        f"Would send {plan.points:,} points ({plan.bytes / 2**20:,.1f} MiB) to the "
        f"collection '{plan.collection}' in {place}:",
        *(f"  {name}: {vector}" for name, vector in vectors.items()),
    )


def _show_report(report: UploadReport, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(report))
        return
    rate = report.points / report.seconds if report.seconds > 0 else 0.0
    _print(
        f"{report.target}: {'made' if report.created else 'found'}, "
        f"{report.points:,} points sent in {report.seconds:,.1f} s ({rate:,.0f}/s), "
        f"{report.points_after:,} there now, {report.compared} compared and equal.",
        *(f"  {name}: {vector}" for name, vector in report.vectors.items()),
    )
