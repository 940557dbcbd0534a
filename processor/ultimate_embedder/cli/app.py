"""The console entry point: every command under `ultimate-embedder`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from .adapt import adapt
from .chunk import chunk
from .clean import clean
from .embed import embed
from .entry import new_app, register, run
from .evaluate import evaluate
from .models import export_model, list_models, show_model
from .models_check import check_models
from .models_fetch import fetch_models
from .repair import repair
from .report import report
from .search import search
from .serve import serve
from .upload import upload
from .verify import verify
from .versions import DISTRIBUTION, own_version

_COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("chunk", chunk),
    ("embed", embed),
    ("search", search),
    ("serve", serve),
    ("verify", verify),
    ("repair", repair),
    ("clean", clean),
    ("report", report),
    ("evaluate", evaluate),
    ("upload", upload),
    ("adapt", adapt),
)

app = new_app("Folders of documentation and code in, search-ready collections out.")
_models = new_app("The known models: what they are, what is here, what fits.")
app.add_typer(_models, name="models")
for _name, _function in _COMMANDS:
    register(app, _function, _name)
register(_models, list_models, "list")
register(_models, show_model, "show")
register(_models, check_models, "check")
register(_models, fetch_models, "fetch")
register(_models, export_model, "export")


def _tell_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"{DISTRIBUTION} {own_version()}\n")
        raise typer.Exit


@app.callback()
def _before_any_command(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print name and version, nothing else.",
            callback=_tell_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(app))
