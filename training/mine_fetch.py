"""The archives named in sources.toml, taken from pip's index and checked by SHA-256.

`python -m training.mine_fetch FOLDER` brings every pinned source archive into
FOLDER; `--pin NAME...` prints the newest releases as entries for sources.toml.
Nothing is built and no code of an archive runs.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

from packaging.utils import parse_sdist_filename
from packaging.version import Version

SOURCES = Path(__file__).with_name("sources.toml")
LARGEST_BYTES = 120_000_000


@dataclass(frozen=True)
class Archive:
    """A source archive as the index lists it."""

    version: Version
    url: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """One pinned source archive, and the pool its pairs go to."""

    name: str
    version: str
    sha256: str
    pool: str


def read_sources(path: Path = SOURCES) -> list[Source]:
    """The pinned archives in the order of their names."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return sorted((Source(**entry) for entry in table["source"]), key=lambda s: s.name)


def index_url() -> str:
    """The simple index that pip asks on this machine."""
    from pip._internal.configuration import Configuration
    from pip._internal.models.index import PyPI

    configuration = Configuration(isolated=False)
    configuration.load()
    known = dict(configuration.items())
    return str(known.get("global.index-url", PyPI.simple_url)).rstrip("/")


class _Links(HTMLParser):
    """The links of an index page: file name, address without its fragment, SHA-256."""

    def __init__(self) -> None:
        super().__init__()
        self.archives: list[Archive] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        if tag != "a" or "data-yanked" in fields:
            return
        url, _, fragment = (fields.get("href") or "").partition("#sha256=")
        name = url.rpartition("/")[2]
        if not name.endswith(".tar.gz"):
            return
        try:
            version = parse_sdist_filename(name)[1]
        except ValueError:
            return  # a name older than the naming rules
        if not version.is_prerelease:
            self.archives.append(Archive(version, url, fragment))


def source_archives(name: str) -> list[Archive]:
    """The released, unyanked .tar.gz archives of a project, oldest first."""
    address = f"{index_url()}/{name}/"
    with urllib.request.urlopen(address, timeout=180) as answer:  # noqa: S310
        return listed(answer.read().decode(), address)


def listed(page: str, address: str) -> list[Archive]:
    """The archives that the index page at an address lists, oldest first."""
    links = _Links()
    links.feed(page)
    joined = [
        replace(archive, url=urllib.parse.urljoin(address, archive.url))
        for archive in links.archives
    ]
    return sorted(joined, key=lambda archive: archive.version)


def pin(name: str) -> Source | None:
    """The newest source archive of a project; None where it has none."""
    archives = source_archives(name)
    if not archives:
        return None
    return Source(name, str(archives[-1].version), archives[-1].sha256, "")


def fetch(source: Source, folder: Path) -> Path:
    """The checked archive of a source inside `folder`, downloaded if it is not there.

    Raises ValueError where the index lacks the release, the archive is larger
    than LARGEST_BYTES, or the bytes differ from the pin.
    """
    target = folder / f"{source.name}-{source.version}.tar.gz"
    if target.exists() and _sha256(target.read_bytes()) == source.sha256:
        return target
    for archive in source_archives(source.name):
        if archive.sha256 == source.sha256:
            data = _download(archive.url)
            break
    else:
        raise ValueError(f"{source.name} {source.version} is not in the index")
    if _sha256(data) != source.sha256:
        raise ValueError(f"{source.name} {source.version}: the archive's bytes differ")
    target.write_bytes(data)
    return target


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=180) as answer:  # noqa: S310
        if int(answer.headers.get("Content-Length", 0)) > LARGEST_BYTES:
            raise ValueError(f"{url}: more than {LARGEST_BYTES:,} bytes")
        data: bytes = answer.read()
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(source: Source) -> str:
    """A source as it is written in sources.toml."""
    lines = [f'{key} = "{getattr(source, key)}"' for key in Source.__annotations__]
    return "\n".join(["[[source]]", *lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch every pinned archive, or print pins for the projects named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pin", nargs="+", metavar="NAME")
    options = parser.parse_args(arguments)
    for name in options.pin or ():
        found = pin(name)
        print(entry(found) if found else f"# {name}: no fit archive")
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        for source in read_sources():
            print(fetch(source, options.folder).name, file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
