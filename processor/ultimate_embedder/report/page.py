"""The page of one run: everything in it comes from the manifest."""

from __future__ import annotations

from ..export.manifest import Manifest
from . import encoding, listing, memory, overview, quality
from .markup import Html, Part, escaped, tag
from .style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for a page: nothing from anywhere."""


def report_page(manifest: Manifest) -> str:
    """Return the report as one HTML document that needs nothing else.

    It holds no text of documents or queries; all else is escaped.
    """
    return document(
        f"{manifest.collection}: run report",
        manifest.manifest_sha256,
        overview.head(manifest),
        overview.warnings(manifest),
        overview.stages(manifest),
        encoding.throughput(manifest),
        encoding.texts(manifest),
        memory.memory(manifest),
        quality.quality(manifest),
        quality.coverage(manifest),
        listing.folders(manifest),
        listing.set_aside(manifest),
        listing.settings(manifest),
        listing.environment(manifest),
    )


def document(title: str, identity: str, *parts: Part) -> str:
    """Return a whole HTML document; `identity` tells which manifest it is made of."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="manifest-sha256", content=identity),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(STYLE)),
    )
    page = tag("html", head, tag("body", tag("main", *parts)), lang="en")
    return f"<!doctype html>\n{page}\n"


def identity_of(page: str) -> str | None:
    """Return which manifest a page was made of, from its first characters."""
    mark = f'name="{escaped("manifest-sha256")}" content="'
    _, found, rest = page.partition(mark)
    return rest[: rest.find('"')] if found else None
