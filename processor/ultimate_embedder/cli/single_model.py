"""The single-model pipeline: a preset of `embed`, with checks of what it wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from ..config import PipelineConfig, Provenance
from ..errors import EmbedderError, ModelNotAvailable, UsageError
from ..intake.chunks import find_collections
from ..setting_layers import COMMAND_LAYER, DEFAULT_LAYER
from ..settings import Preset, Settings
from .embed import STAGE_OPTIONS, ConfigFile, DryRun, Variant, embed_as
from .embed_options import BY_KEY, with_options, with_setting_options

if TYPE_CHECKING:
    from ..batch_runner import RunOutcome
    from .statistics import StatisticsCheck

COLLECTION = "qdrant_ecosystem"
MODEL = "nomic-coderank"
SHIPPED_MODEL = "all-miniLM-l6"

SINGLE_MODEL = Preset(
    name="single model",
    values={
        "ensemble_models": (MODEL,),
        "enable_sparse": False,
        "enable_rerank": False,
        "jsonl_layout": "simple",
    },
    unless_profile={"device": "auto", "offline": False},
)

_PLAIN_DEFAULTS = ("enable_sparse", "enable_rerank", "jsonl_layout")
_TOLD_DEFAULTS = {
    "collections": f"{COLLECTION} where there is one, else all that are found",
    "device": "auto; by profile where one is given",
    "offline": "online; by profile where one is given",
}
_OPTIONS = (
    BY_KEY["ensemble_models"].with_name("--model").with_default((MODEL,)),
    *(BY_KEY[key].with_default(SINGLE_MODEL.values[key]) for key in _PLAIN_DEFAULTS),
    *(replace(BY_KEY[key], default=told) for key, told in _TOLD_DEFAULTS.items()),
)


@with_setting_options
def single_model(
    ctx: typer.Context,
    *,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    **given: object,
) -> None:
    """Embed a collection with one model, nomic-coderank unless told, and check it.

    Sparse vectors and rerank are off and the JSON lines are simple; the options below,
    those of the main job, override each of these. On a machine without a network give
    --model all-miniLM-l6, whose weights are installed with the package.

    After the run the chunk ids and the figures of each source subdirectory are counted
    again and compared with the manifest, the vectors and the chunk files.

    Exit codes: 0 all collections are done and sound; 1 at least one failed or a check
    did; 2 bad usage or settings; 3 stopped before the end, and the same command
    resumes.
    """
    variant = Variant(
        preset=SINGLE_MODEL,
        settled=settled,
        cured=_with_model_that_is_here,
        check_after=check_bundles,
    )
    embed_as(variant, ctx, given, dry_run=dry_run, config=config)


with_options(single_model, _OPTIONS)


def settled(settings: Settings) -> Settings:
    """Return the settings as this preset reads them.

    Raises:
        UsageError: an option belongs to a stage that nothing switched on, or two
            folders hold a collection of one name.
    """
    decided = {entry.key: entry for entry in settings.pipeline.provenance}
    for toggle, keys in STAGE_OPTIONS.items():
        left_out = decided[toggle].source == f"preset {SINGLE_MODEL.name}"
        for key in keys if left_out else ():
            if decided[key].layer == COMMAND_LAYER:
                switch = BY_KEY[toggle].given_as(True)
                raise UsageError(
                    f"{decided[key].source} is of a stage that this command leaves "
                    "out.",
                    cure=f"Give {switch} too.",
                )
    return prefer_collection(settings)


def prefer_collection(settings: Settings) -> Settings:
    """Return the settings with the collection of this preset, if no other was named.

    Raises:
        UsageError: two folders hold a collection of one name.
    """
    config = settings.pipeline
    if config.collections or not config.chunked_dir.is_dir():
        return settings
    if COLLECTION not in {one.name for one in find_collections(config.chunked_dir)}:
        return settings
    decided = Provenance(
        key="collections",
        value=COLLECTION,
        source=f"preset {SINGLE_MODEL.name}",
        layer=DEFAULT_LAYER,
    )
    provenance = tuple(
        decided if entry.key == decided.key else entry for entry in config.provenance
    )
    chosen = replace(config, collections=(COLLECTION,), provenance=provenance)
    return replace(settings, pipeline=chosen)


def check_bundles(config: PipelineConfig, outcome: RunOutcome) -> StatisticsCheck:
    """Return the statistics of the bundles that were made, counted again.

    Raises:
        EmbedderError: a bundle cannot be read.
    """
    from ..models.manager import ModelManager
    from ..verify import check_statistics
    from .statistics import StatisticsCheck, token_counter

    models = ModelManager(offline=True)  # they were here a moment ago
    folders = {folder.name: folder for folder in find_collections(config.chunked_dir)}
    made = [
        (one.bundle, one.manifest)
        for one in outcome.collections
        if one.bundle is not None and one.manifest is not None
    ]
    return StatisticsCheck(
        tuple(
            check_statistics(
                bundle,
                count_tokens=token_counter(manifest, models),
                source=folders.get(manifest.collection),
            )
            for bundle, manifest in made
        ),
        tuple(bundle for bundle, _ in made),
    )


def _with_model_that_is_here(error: EmbedderError) -> EmbedderError:
    if not isinstance(error, ModelNotAvailable):
        return error
    return ModelNotAvailable(
        error.message,
        cure=f"Without a network give --model {SHIPPED_MODEL}, which is installed "
        "with the package; with one, run again with --online.",
    )
