"""The page in a real browser: no error, nothing leaves it, no sideways scrolling."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_parts import full_manifest

from processor.ultimate_embedder.report import comparison_page, report_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
MEASURE = """<script>
addEventListener("load", () => {
  const frame = document.querySelector("iframe");
  const inner = frame.contentDocument;
  const loaded = frame.contentWindow.performance.getEntriesByType("resource");
  document.title = [inner.documentElement.scrollWidth, loaded.length,
    inner.querySelectorAll("svg").length,
    frame.contentWindow.getComputedStyle(inner.body).backgroundColor].join("|");
});
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]


def opened(folder: Path, page: str, width: int, *, dark: bool) -> tuple[list[str], str]:
    """Open a page in a frame; return what was measured in it, and what was logged."""
    assert BROWSER is not None
    (folder / "page.html").write_text(page, encoding="utf-8")
    frame = f'<iframe src="page.html" width="{width}" height="900"></iframe>'
    (folder / "frame.html").write_text(f"<title></title>{frame}{MEASURE}")
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    return title[1].split("|"), done.stderr


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_the_page_fits_loads_nothing_and_logs_no_error(
    tmp_path: Path, *, dark: bool
) -> None:
    page = report_page(full_manifest())
    (width, loaded, pictures, ground), logged = opened(tmp_path, page, 360, dark=dark)
    assert int(width) <= 360
    assert int(loaded) == 0
    assert int(pictures) == page.count("<svg")
    assert ground == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")
    assert ":CONSOLE" not in logged


def test_a_comparison_fits_a_phone_too(tmp_path: Path) -> None:
    page = comparison_page(full_manifest(), full_manifest(collection="c" * 200))
    (width, loaded, _, _), logged = opened(tmp_path, page, 360, dark=False)
    assert int(width) <= 360
    assert int(loaded) == 0
    assert ":CONSOLE" not in logged
