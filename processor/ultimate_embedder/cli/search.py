"""`search`: query a bundle: dense, sparse, fused, reranked."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from ..models.choice import choose_rerank
from ..retrieval.fusion import FusionConfig
from ..search import Bundle, Hit, SearchResults, Stage, open_bundle
from ..search.filters import parse_filters
from ..search.results import STAGES
from ..settings import decide
from ..telemetry.printable import printable
from .output import Format, Sheet, show_sheet, stdout_format

_SNIPPET_CHARACTERS = 160
_TEXTS_SHOWN = 3


def search(  # noqa: PLR0913 - each is an option
    bundle: Annotated[Path, typer.Argument(help="Folder of one collection's bundle.")],
    query: Annotated[str, typer.Argument(help="The question, in quotes.")],
    *,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", help="How many chunks.", min=1)
    ] = 10,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Only chunks with this metadata, e.g. source_subdir=NAME; several "
            "must all hold.",
        ),
    ] = None,
    stage: Annotated[
        Literal["dense", "sparse", "fused", "reranked", "all"],
        typer.Option(
            help="Which ranking; 'all' shows each chunk's place in every one."
        ),
    ] = "all",
    rerank_model: Annotated[
        str | None,
        typer.Option(
            "--rerank-model",
            metavar="KEY|ORG/NAME|DIR",
            help="Rerank with another model than the bundle's, as `adapt` writes.",
            show_default="the bundle's",
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            "--fusion",
            metavar="EXPRESSION",
            help="Fuse in another way than the bundle's, e.g. rrf(k=60).",
            show_default="the bundle's",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
    offline: Annotated[
        bool | None,
        typer.Option(
            "--offline/--online",
            help="Open no connection, or fetch models that are missing.",
            show_default="offline for profile embedded",
        ),
    ] = None,
) -> None:
    """Query a bundle, without a server.

    The models that made the bundle encode the query. A ranking that cannot be had is
    left out of 'all' with the reason, and an error when asked for by name.

    Exit codes: 0 answered; 1 a damaged bundle, or a model is missing; 2 bad
    usage, or no bundle.
    """
    asked: tuple[Stage, ...] = STAGES if stage == "all" else (stage,)
    if offline is None:
        offline = decide({})[0]["offline"].value
    with open_bundle(
        bundle,
        offline=offline,
        fusion=FusionConfig.parse(fusion) if fusion else None,
        rerank=choose_rerank(rerank_model, offline=offline) if rerank_model else None,
    ) as opened:
        results = opened.search_stages(
            query,
            needed=() if stage == "all" else asked,
            rerank="reranked" in asked,
            top_k=top_k,
            filters=parse_filters(filters or ()),
        )
        found = {
            one: opened.hits(results, one, top_k)
            for one in asked
            if one in results.rankings
        }
        if as_json:
            document = _document(opened, results, found, stage, top_k, filters or [])
            sys.stdout.buffer.write(
                orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
            )
            return
    style = stdout_format()
    chunks = f"{len(opened):,} chunks"
    _show(found, f"{opened.manifest.collection}, {chunks}", style)
    for one in asked:
        if one in results.missing:
            _print(f"No {one} ranking: {results.missing[one]}")


def _document(
    bundle: Bundle,
    results: SearchResults,
    found: dict[Stage, list[Hit]],
    stage: str,
    top_k: int,
    filters: list[str],
) -> dict[str, Any]:
    return {
        "collection": bundle.manifest.collection,
        "query": results.query,
        "stage": stage,
        "top_k": top_k,
        "filters": parse_filters(filters),
        "rankings": {
            one: [hit.as_json() for hit in hits] for one, hits in found.items()
        },
        "missing": {
            one: why for one, why in results.missing.items() if stage in {"all", one}
        },
    }


def _show(found: dict[Stage, list[Hit]], title: str, style: Format) -> None:
    """Write a line for each chunk that a ranking lists, then the last one's texts."""
    if not any(found.values()):
        _print("Nothing was found.")
        return
    stages = tuple(reversed(found))  # the ranking that orders the lines goes first
    rows = tuple(
        (*(_cell(hit, stage) for stage in stages), _name(hit)) for hit in _each(found)
    )
    sheet = Sheet(title=title, columns=(*stages, "chunk"), rows=rows, numbers=stages)
    show_sheet(sheet, style=style)
    last = next(hits for hits in reversed(found.values()) if hits)
    shown = last if len(found) == 1 else last[:_TEXTS_SHOWN]
    for hit in shown:
        _print("", f"{hit.rank}. {hit.chunk_id}")
        if hit.text is not None:
            _print(f"   {_snippet(hit.text)}")


def _each(found: dict[Stage, list[Hit]]) -> list[Hit]:
    """Return each chunk once: as the last ranking has them, then what it leaves out."""
    last = next(stage for stage in reversed(found) if found[stage])

    def order(hit: Hit) -> tuple[float, int]:
        place = hit.stages.get(last)
        return (math.inf if place is None else place.rank), hit.rank

    hits = sorted((hit for hits in found.values() for hit in hits), key=order)
    return list({hit.chunk_id: hit for hit in hits}.values())


def _cell(hit: Hit, stage: Stage) -> str:
    """Return a chunk's rank and score in a ranking, `-` where it is not listed."""
    place = hit.stages.get(stage)
    return "-" if place is None else f"{place.rank}  {place.score:8.4f}"


def _name(hit: Hit) -> str:
    return hit.chunk_id.removeprefix(f"{hit.metadata.get('collection', '')}:")


def _snippet(text: str) -> str:
    words = " ".join(text.split())
    if len(words) <= _SNIPPET_CHARACTERS:
        return words
    return words[: _SNIPPET_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


def _print(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(printable(line, limit=1000) + "\n")
