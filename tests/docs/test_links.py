"""Links of the Markdown files lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("deploy/**/*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
        *ROOT.glob("openspec/**/*.md"),
    ]
)
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FOREIGN = ("http://", "https://", "mailto:")


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page that lie in this repository."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    yield from (link for link in LINK.findall(prose) if not link.startswith(FOREIGN))


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get on GitHub."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_of_the_documentation_is_reached_from_the_readme() -> None:
    reached = {
        (ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")
    }
    assert set((ROOT / "docs").glob("*.md")) <= reached
