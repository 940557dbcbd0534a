"""`report`: make a page of a run from its bundle, or compare two runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..export.manifest import Manifest, read_manifest_bytes
from ..report import comparison_page, report_page, report_path, write_page


def report(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    other: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of another bundle, to compare with.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where the page goes. Default: <collection>_report.html beside the "
            "bundle; <collection>_compared.html where two are compared.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one HTML page about a run, read from the manifest of its bundle.

    Given a second bundle, the page shows how the second run differs from the first:
    rates, times, memory, search quality, settings. Neither bundle is changed. The page
    needs no network and holds no text of documents or queries.

    Exit codes: 0 the page is written; 1 the bundle's manifest is damaged; 2 there is no
    such folder or bundle, or the page cannot be written.
    """
    first = _manifest(bundle)
    if other is None:
        path, page = report_path(bundle.resolve()), report_page(first)
    else:
        page = comparison_page(first, _manifest(other))
        whole = bundle.resolve()
        path = whole.with_name(f"{whole.name}_compared.html")
    target = output or path
    try:
        write_page(target, page)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {error.strerror}.",
            cure="Name a file that can be with --output.",
        ) from error
    sys.stdout.write(f"{target}\n")


def _manifest(bundle: Path) -> Manifest:
    return Manifest.parse(read_manifest_bytes(bundle))
