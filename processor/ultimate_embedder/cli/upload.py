"""`upload`: a bundle into Qdrant, counted and compared afterwards."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, cast, get_args

import orjson
import typer

from ..delivery.bundle_points import UploadPlan, plan_upload
from ..delivery.opening import (
    GRPC_PORT,
    REQUEST_SECONDS,
    Server,
    Target,
    Transport,
    choose_target,
)
from ..delivery.presets import DEFAULT, PRESETS, parse_names, preset
from ..delivery.retry import Retries
from ..delivery.store import KEYWORD_FIELDS, TEXT_FIELD
from ..delivery.upload import UploadOptions, UploadReport, send_bundle
from ..errors import UsageError
from ..telemetry.printable import printable
from .upload_progress import Watcher, watching

_NO_INDEX = "the local mode has no HNSW, no 8 bits and no payload indexes"
_MIB = 2**20


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
        typer.Option(
            help="Name of the collection there; the bundle's unless given, with "
            "--alias followed by the first digits of the points' sum."
        ),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            help="Name that stands for the collection once everything is there and "
            "indexed; what it stood for before stays.",
        ),
    ] = None,
    preset_name: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="How a new collection is tuned and its vectors are named: "
            f"{', '.join(PRESETS)}.",
        ),
    ] = DEFAULT,
    vector_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=NAME",
            help="Call the vector of a model differently there; may be repeated.",
        ),
    ] = None,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Remove the collection first.")
    ] = False,
    remove_stale: Annotated[
        bool,
        typer.Option(
            "--remove-stale",
            help="Remove points of an earlier bundle of the same collection, after "
            "those of this one have arrived.",
        ),
    ] = False,
    transport: Annotated[
        str,
        typer.Option(
            help="How a server is spoken to: grpc, http, or auto for gRPC where its "
            "port answers.",
            metavar="NAME",
        ),
    ] = "auto",
    grpc_port: Annotated[
        int, typer.Option(help="Port of the server's gRPC.", min=1, max=65535)
    ] = GRPC_PORT,
    batch_mib: Annotated[
        int, typer.Option(help="MiB of JSON in a request at most.", min=1, max=1024)
    ] = 8,
    timeout: Annotated[
        int, typer.Option(help="Seconds that one answer may take.", min=1)
    ] = REQUEST_SECONDS,
    patience: Annotated[
        float,
        typer.Option(
            help="Seconds during which a request that fails in a way that may pass is "
            "made again.",
            min=0,
        ),
    ] = 300.0,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Do not go on where an upload was interrupted."),
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
    does not fit is refused. Repeating an upload changes nothing, and one that was
    interrupted goes on where it stopped. At the end all ids are compared with the
    bundle's, and vectors and payloads of a sample. A server's key is read from
    QDRANT_API_KEY.

    Exit codes: 0 everything is there and compared; 1 refused or failed; 2 bad usage; 3
    stopped, and the same command goes on.
    """
    server = None
    if url is not None:
        if transport not in get_args(Transport):
            raise UsageError(
                f"'{transport}' is no transport.",
                cure=f"Known: {', '.join(get_args(Transport))}.",
            )
        server = Server(
            url=url,
            api_key=api_key or None,
            transport=cast(Transport, transport),
            grpc_port=grpc_port,
            seconds=timeout,
        )
    plan = plan_upload(
        bundle,
        collection,
        tuning=preset(preset_name),
        names=parse_names(vector_name or []),
    )
    if alias is not None and collection is None:
        plan = replace(plan, collection=f"{plan.collection}-{plan.sha256[:8]}")
    options = UploadOptions(
        recreate=recreate,
        remove_stale=remove_stale,
        alias=alias,
        resume=not fresh,
        batch_bytes=batch_mib * _MIB,
    )
    with watching(plan.points, quiet=as_json) as watcher:
        retries = Retries(patience=patience, tell=watcher.say)
        target = choose_target(server, path, edge, retries)
        if dry_run:
            _show_plan(plan, target, options, as_json=as_json)
            return
        if server is not None and server.key_in_clear:
            watcher.say("The API key travels unencrypted: the address is no https.")
        report = _send(plan, target, options, watcher)
    _show_report(report, as_json=as_json)


def _send(
    plan: UploadPlan, target: Target, options: UploadOptions, watcher: Watcher
) -> UploadReport:
    with closing(target.open(plan.collection)) as store:
        return send_bundle(plan, store, options, advance=watcher.advance)


def _print_json(document: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))


def _print(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(printable(line, limit=1000) + "\n")


def _show_plan(
    plan: UploadPlan, target: Target, options: UploadOptions, *, as_json: bool
) -> None:
    vectors = plan.layout.vectors()
    indexes = [*KEYWORD_FIELDS, TEXT_FIELD] if target.indexed else []
    tuning = plan.tuning.describe() if target.indexed else _NO_INDEX
    if as_json:
        _print_json(
            {
                "dry_run": True,
                "target": target.place,
                "collection": plan.collection,
                "alias": options.alias,
                "points": plan.points,
                "bytes": plan.bytes,
                "vectors": vectors,
                "names": dict(plan.names),
                "preset": plan.tuning.name,
                "tuning": tuning,
                "payload_indexes": indexes,
                "recreate": options.recreate,
                "remove_stale": options.remove_stale,
            }
        )
        return
    steps = [
        "the collection is removed first" if options.recreate else "",
        "points of an earlier bundle are removed" if options.remove_stale else "",
        f"then '{options.alias}' stands for it" if options.alias else "",
    ]
    keys = {name: key for key, name in plan.names.items()}
    _print(
        f"Would send {plan.points:,} points ({plan.bytes / _MIB:,.1f} MiB) to the "
        f"collection '{plan.collection}' in {target.place}:",
        *(
            f"  {name}: {vector}{f', of {keys[name]}' if name in keys else ''}"
            for name, vector in vectors.items()
        ),
        f"  a new collection has the preset {plan.tuning.name}: {tuning}"
        if target.indexed
        else f"  {tuning}",
        *([f"  payload indexes: {', '.join(indexes)}"] if indexes else []),
        *(f"  {step}" for step in steps if step),
    )


def _show_report(report: UploadReport, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(report))
        return
    rate = report.sent / report.seconds if report.seconds > 0 else 0.0
    went_on = f" (went on at {report.resumed_at:,})" if report.resumed_at else ""
    _print(
        f"{report.target}: {'made' if report.created else 'found'}, "
        f"{report.sent:,} points sent in {report.seconds:,.1f} s ({rate:,.0f}/s)"
        f"{went_on}, {report.points_after:,} there now, {report.compared} compared "
        "and equal.",
        *(f"  {name}: {vector}" for name, vector in report.vectors.items()),
    )
    if report.stale_removed:
        _print(f"{report.stale_removed:,} points of an earlier bundle were removed.")
    if report.alias:
        before = report.alias_before
        earlier = f"; before, for '{before}', which is still there" if before else ""
        same = before == report.collection
        _print(
            f"'{report.alias}' stands for '{report.collection}'"
            f"{'' if same else earlier}."
        )
    _print(*report.notes)
