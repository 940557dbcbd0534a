"""Training pools mined from packages: `python -m training.mine ARCHIVES POOLS`.

ARCHIVES is the folder that training.mine_fetch filled; POOLS gets one folder a
pool. The counts, the packages with their licences, and each pool's SHA-256 go
to the data card.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.mine_api import api_pairs
from training.mine_fetch import SOURCES, read_sources
from training.mine_notebooks import gallery_page, is_gallery, notebook_page
from training.mine_other import SUFFIXES, other_pairs, shell_pairs, workflow_pairs
from training.mine_packages import Package, from_archive, from_installed, texts
from training.mine_pages import sections
from training.mine_pairs import Pair, fit
from training.mine_pools import Limits, Pool, build_pool, write_pool
from training.mine_prose import prose_pairs, reference_pairs
from training.mine_python import python_pairs

CARD = Path(__file__).with_name("data_card.json")


def package_pairs(package: Package) -> list[Pair]:
    """Every fit pair of a package."""
    return list(fit(_pairs(package)))


def pages_of(package: Package) -> Iterator[tuple[str, str]]:
    """The path and text of every page of prose, notebooks and galleries included."""
    yield from texts(package, ".rst", ".md", ".txt")
    for path, text in texts(package, ".ipynb"):
        yield path, notebook_page(text)
    for path, text in texts(package, ".py"):
        if is_gallery(path):
            yield path, gallery_page(text)


def _pairs(package: Package) -> Iterator[Pair]:
    pages = [s for path, text in pages_of(package) for s in sections(path, text)]
    references, others = reference_pairs(pages)
    yield from references
    yield from prose_pairs(others)
    for path, text in texts(package, ".py"):
        if is_gallery(path) and gallery_page(text):
            continue  # read as a page
        yield from python_pairs(path, text)
    for path, text in texts(package, *SUFFIXES):
        yield from other_pairs(path, text)
    for _, text in texts(package, ".sh", ".bash"):
        yield from shell_pairs(text)
    for _, text in texts(package, ".yml", ".yaml"):
        yield from workflow_pairs(text)
    yield from api_pairs(package)


def packages_by_pool(
    archives: Path, sources: Path
) -> Iterator[tuple[str, Package | str]]:
    """Each package with its pool; a name alone where its licence does not fit."""
    for source in read_sources(sources):
        path = archives / f"{source.name}-{source.version}.tar.gz"
        yield source.pool, from_archive(path) or source.name
    table = tomllib.loads(sources.read_text(encoding="utf-8"))
    for pool, names in sorted(table.get("installed", {}).items()):
        for name in names:
            yield pool, from_installed(name) or name


def card_of(pool: Pool, packages: list[dict[str, str]], total: str) -> dict[str, Any]:
    """What the data card says of one pool."""
    return {
        "documents": len(pool.documents),
        "queries": len(pool.queries),
        "sources": dict(sorted(Counter(p.source for _, p in pool.queries).items())),
        "packages": packages,
        "sha256": total,
    }


def mine(
    archives: Path, folder: Path, limits: Limits, sources: Path = SOURCES
) -> dict[str, Any]:
    """Write every pool and return the data card."""
    pairs: dict[str, list[list[Pair]]] = defaultdict(list)
    named: dict[str, list[dict[str, str]]] = defaultdict(list)
    skipped = []
    for pool, package in packages_by_pool(archives, sources):
        if isinstance(package, str):
            skipped.append(package)
            continue
        found = package_pairs(package)
        pairs[pool].append(found)
        entry = {"name": package.name, "version": package.version}
        named[pool].append({**entry, "licence": package.licence})
        print(f"{pool}: {package.name} {len(found)}", file=sys.stderr, flush=True)
    card: dict[str, Any] = {"pools": {}, "skipped": skipped}
    for name in sorted(pairs):
        built = build_pool(name, pairs[name], limits)
        card["pools"][name] = card_of(built, named[name], write_pool(built, folder))
    return card


def main(arguments: Sequence[str] | None = None) -> int:
    """Mine the pools and print how many documents and queries each has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archives", type=Path)
    parser.add_argument("pools", type=Path)
    parser.add_argument("--card", type=Path, default=CARD)
    options = parser.parse_args(arguments)
    card = mine(options.archives, options.pools, Limits())
    options.card.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    for name, said in card["pools"].items():
        print(f"{name:20} {said['documents']:6} {said['queries']:6}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
