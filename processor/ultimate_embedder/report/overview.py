"""The head of a page: what was made, what a person should know, what took the time."""

from __future__ import annotations

from collections.abc import Iterator

from ..export.manifest import Manifest
from ..export.manifest_sections import RerankNotRun, RerankRan
from . import wording as say
from .charts import Bar, bars, noted
from .markup import Html, Part, long_text, section, tag

_TOGGLES = (("enable_sparse", "Sparse vectors"), ("enable_rerank", "Rerank"))


def head(manifest: Manifest) -> Html:
    """Return the heading, where the bundle comes from, and its main figures."""
    when = manifest.generated_at[:19].replace("T", " ")
    told = [part for part in (when, f"run {manifest.run_id}") if part.strip()]
    return tag(
        "header",
        tag("h1", manifest.collection),
        tag("p", "Run report · ", " · ".join(told), class_="lead"),
        tag("dl", *(_tile(*tile) for tile in _tiles(manifest)), class_="tiles"),
    )


def _tile(name: str, figure: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", figure), class_="tile")


def _tiles(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "chunks", say.count(manifest.chunk_count)
    if tokens := sum(part.tokens for part in manifest.source_subdirs.values()):
        yield "tokens", say.count(tokens)
    if (kept := manifest.conservation) is not None:
        yield "files read", say.count(kept.files_read)
        if kept.files_aside:
            yield "files set aside", say.count(kept.files_aside)
        yield "chunks set aside", say.count(kept.chunks_aside)
    if seconds := sum(taken for _, taken in stage_seconds(manifest)):
        yield "time in stages", say.time(seconds)
    if size := sum(file.bytes for file in manifest.artifacts):
        yield "size of the bundle", say.size(size)


def stage_seconds(manifest: Manifest) -> list[tuple[str, float]]:
    """Return what each stage took, by name, in the order of the manifest."""
    measured = manifest.performance_baseline
    found = [(name, part.seconds) for name, part in measured.items()]
    ran = manifest.rerank_run
    if isinstance(ran, RerankRan) and (name := f"rerank:{ran.model}") not in measured:
        found.append((name, ran.seconds))  # earlier manifests say it there alone
    return found


def warnings(manifest: Manifest) -> Html:
    """Return what a person should know, each with what helps."""
    items = [tag("li", *parts) for parts in _remarkable(manifest)]
    if not items:
        return section("warnings", "Warnings", tag("p", "None."))
    return section("warnings", "Warnings", tag("ul", *items, class_="warnings"))


def _remarkable(manifest: Manifest) -> Iterator[tuple[Part, ...]]:
    for warning in manifest.warnings[:100]:
        yield (long_text(warning),)
    if len(manifest.warnings) > 100:
        yield (f"{say.count(len(manifest.warnings) - 100)} further warnings.",)
    rerank = manifest.rerank_run
    if isinstance(rerank, RerankNotRun):
        yield (
            f"Rerank did not run: {rerank.reason}",
            tag("span", rerank.cure, class_="cure"),
        )
    elif rerank is not None and rerank.fallback_used:
        yield (f"Rerank took its second choice: {rerank.fallback_reason or '?'}",)
    for sparse in manifest.sparse_run or ():
        if sparse.fallback_used:
            reason = sparse.fallback_reason or "?"
            yield (f"{sparse.sparse_model} took its second choice: {reason}",)
    for run in manifest.dense_run or ():
        if run.oom_retries:
            yield (
                f"{run.model}: batches were made smaller "
                f"{say.plural(run.oom_retries, 'time')} for lack of memory.",
            )


def stages(manifest: Manifest) -> Html:
    """Return how long each stage took, and which stages were switched off."""
    rows = [
        Bar(label=stage_name(name), value=taken, told=say.time(taken))
        for name, taken in stage_seconds(manifest)
    ]
    parts: list[Part] = []
    if rows:
        note = rerank_latency(manifest)
        picture = bars("stages-time", "Time by stage", rows)
        parts.append(noted(picture, note))
    parts += [tag("p", told) for told in _switched_off(manifest)]
    return section("stages", "Where the time went", *parts)


def stage_name(key: str) -> str:
    """Return `dense:m` as `dense · m`."""
    return key.replace(":", " · ", 1)


def rerank_latency(manifest: Manifest) -> str | None:
    """Return the latency of a reranked query in words, where it was measured."""
    run = manifest.rerank_run
    if not isinstance(run, RerankRan) or run.latency_ms_p50 is None:
        return None
    told = f"Rerank, a query: median {say.time(run.latency_ms_p50 / 1000)}"
    if run.latency_ms_p95 is not None:
        told += f", 95 % within {say.time(run.latency_ms_p95 / 1000)}"
    return (
        f"{told}; {say.plural(run.queries, 'query', 'queries')}, "
        f"{say.count(run.candidates)} candidates."
    )


def _switched_off(manifest: Manifest) -> Iterator[str]:
    toggles = manifest.feature_toggles
    if toggles is None:
        return
    for key, name in _TOGGLES:
        if not getattr(toggles, key):
            layer = toggles.sources.get(key)
            by = f" by: {layer}" if layer else ""
            yield f"{name}: switched off{by}."
