"""`embed`: chunk JSON -> bundles, the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import EmbedderError, UsageError
from ..settings import resolve
from .embed_options import Given, typed, with_setting_options
from .entry import Invocation
from .errors_out import complain
from .output import stdout_format

_STAGE_OPTIONS = {
    "enable_sparse": ("sparse_models", "bm25_profile", "sparse_device"),
    "enable_rerank": ("rerank_model", "rerank_batch_cap", "rerank_timeout"),
}


@with_setting_options
def embed(
    ctx: typer.Context,
    *,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the plan (chunks, tokens, batches, memory, time) and stop.",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings in TOML: these options as keys, with underscores. "
            "Default: ultimate-embedder.toml, if there is one.",
            show_default=False,
        ),
    ] = None,
    **given: object,
) -> None:
    """Embed collections of chunk files into search-ready bundles.

    Settings resolve in the order defaults, config file, .env, environment, command
    line.

    Exit codes: 0 all collections are done; 1 at least one failed; 2 bad usage or
    settings; 3 stopped before the end, and the same command resumes.
    """
    from .embed_run import run_embedding

    command_line = typed(given)
    invocation = ctx.find_object(Invocation) or Invocation("ultimate-embedder embed")
    resume = invocation.resume_command
    as_json = command_line.get("log_format", ("", ""))[0] == "json"
    try:
        refuse_contradictions(command_line)
        settings = resolve(command_line, config_file=config, preset=invocation.preset)
        style = stdout_format(settings.reporting.log_format)
        as_json = style == "json"
        code = run_embedding(settings, style=style, dry_run=dry_run, resume=resume)
    except (EmbedderError, KeyboardInterrupt) as error:
        if not as_json:
            raise
        code = complain(error, resume=resume, as_json=True)
    raise typer.Exit(code)


def refuse_contradictions(given: Given) -> None:
    """Return unless a stage was switched off and an option of it given at once.

    Raises:
        UsageError: naming both options.
    """
    for toggle, keys in _STAGE_OPTIONS.items():
        value, option = given.get(toggle, (True, ""))
        for key in keys if value is False else ():
            if key in given:
                raise UsageError(
                    f"{option} and {given[key][1]} exclude each other.",
                    cure="Give one of them.",
                )
