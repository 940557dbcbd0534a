"""`embed`: chunk JSON -> bundles, the main job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EmbedderError, UsageError
from ..settings import Preset, Settings, resolve
from .embed_options import Given, typed, with_setting_options
from .entry import Invocation
from .errors_out import complain
from .output import stdout_format

if TYPE_CHECKING:
    from .embed_run import CheckAfter

STAGE_OPTIONS = {
    "enable_sparse": ("sparse_models", "bm25_profile", "sparse_device"),
    "enable_rerank": ("rerank_model", "rerank_batch_cap", "rerank_timeout"),
}


DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show the plan (chunks, tokens, batches, memory, time) and stop.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings in TOML: these options as keys, with underscores. "
        "Default: ultimate-embedder.toml, if there is one.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a preset of the main job changes: defaults, settings, words, a check.

    `cured` returns an error of the run as this command tells it.
    """

    preset: Preset | None = None
    settled: Callable[[Settings], Settings] = lambda settings: settings
    cured: Callable[[EmbedderError], EmbedderError] = lambda error: error
    check_after: CheckAfter | None = None


@with_setting_options
def embed(
    ctx: typer.Context,
    *,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    **given: object,
) -> None:
    """Embed collections of chunk files into search-ready bundles.

    Settings resolve in the order defaults, config file, .env, environment, command
    line.

    Exit codes: 0 all collections are done; 1 at least one failed; 2 bad usage or
    settings; 3 stopped before the end, and the same command resumes.
    """
    embed_as(Variant(), ctx, given, dry_run=dry_run, config=config)


def embed_as(
    variant: Variant,
    ctx: typer.Context,
    given: Mapping[str, object],
    *,
    dry_run: bool,
    config: Path | None,
) -> None:
    """Do the main job, or a preset of it, and end with its exit code."""
    from .embed_run import run_embedding

    command_line = typed(given)
    invocation = ctx.find_object(Invocation) or Invocation("ultimate-embedder embed")
    resume = invocation.resume_command
    as_json = command_line.get("log_format", ("", ""))[0] == "json"
    try:
        refuse_contradictions(command_line)
        settings = resolve(command_line, config_file=config, preset=variant.preset)
        settings = variant.settled(settings)
        style = stdout_format(settings.reporting.log_format)
        as_json = style == "json"
        code = run_embedding(
            settings,
            style=style,
            dry_run=dry_run,
            resume=resume,
            check_after=variant.check_after,
        )
    except (EmbedderError, KeyboardInterrupt) as error:
        told = variant.cured(error) if isinstance(error, EmbedderError) else error
        if not as_json and told is error:
            raise
        if not as_json:
            raise told from error
        code = complain(told, resume=resume, as_json=True)
    raise typer.Exit(code)


def refuse_contradictions(given: Given) -> None:
    """Return unless a stage was switched off and an option of it given at once.

    Raises:
        UsageError: naming both options.
    """
    for toggle, keys in STAGE_OPTIONS.items():
        value, option = given.get(toggle, (True, ""))
        for key in keys if value is False else ():
            if key in given:
                raise UsageError(
                    f"{option} and {given[key][1]} exclude each other.",
                    cure="Give one of them.",
                )
