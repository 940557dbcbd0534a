"""The report's file beside a bundle: written whole or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path

from ..export.manifest import Manifest
from .page import identity_of, report_page

SUFFIX = "_report.html"
_HEAD_CHARACTERS = 2000


def report_path(bundle: Path) -> Path:
    """Return where a bundle's report stands: beside its folder, outside its sums."""
    return bundle.with_name(bundle.name + SUFFIX)


def write_report(bundle: Path, manifest: Manifest) -> Path:
    """Write a bundle's report unless the one that stands there is of this manifest.

    Raises:
        OSError: the file cannot be written; an older report is gone then, too.
    """
    path = report_path(bundle)
    if not _is_of(path, manifest):
        path.unlink(missing_ok=True)
        write_page(path, report_page(manifest))
    return path


def write_page(path: Path, page: str) -> None:
    """Put a page in its place in one step.

    Raises:
        OSError: it cannot be written; what stood there is as it was.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        new.write_text(page, encoding="utf-8")
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _is_of(path: Path, manifest: Manifest) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            identity = identity_of(file.read(_HEAD_CHARACTERS))
    except (OSError, UnicodeDecodeError):
        return False
    return bool(identity) and identity == manifest.manifest_sha256
