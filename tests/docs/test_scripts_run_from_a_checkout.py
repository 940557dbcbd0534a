"""Scripts need their libraries only, not an installation of the package itself."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[2] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_help_is_shown_where_the_package_is_not_installed(
    script: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        # -S passes over .pth files, and so over an editable installation.
        [sys.executable, "-S", str(script), "--help"],
        env={"PYTHONPATH": sysconfig.get_path("purelib"), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
