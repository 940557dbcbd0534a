"""The files of a bundle against its lists: present, of the size and sum, no others."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath

from ..errors import BundleError, NewerBundle
from ..export.checksums import file_sha256, parse_sums
from ..export.layout import MANIFEST, SUMS
from ..export.manifest import Manifest, own_sum_holds, read_manifest_bytes
from ..export.manifest_sections import Artifact
from .report import Findings, blame_no_bundle


def read_manifest(bundle: Path, findings: Findings) -> Manifest | None:
    """Return the manifest, or None where it cannot be used; its own sum is checked."""
    content = b""
    try:
        content = read_manifest_bytes(bundle)
        manifest = Manifest.parse(content)
    except NewerBundle as error:
        if own_sum_holds(content):
            findings.unchecked = f"made by a newer version: not checked. {error}"
        else:
            findings.add(MANIFEST, "whole file", f"its own sum differs. {error}")
        return None
    except BundleError as error:
        blame_no_bundle(error)
        findings.add(MANIFEST, "whole file", str(error))
        return None
    legacy = manifest.schema_version in manifest.compatibility.legacy
    if manifest.manifest_sha256 or manifest.artifacts or not legacy:
        if not own_sum_holds(content):
            problem = "its own sum (manifest_sha256) differs"
            findings.break_file(MANIFEST, "whole file", problem)
        findings.checks.append("the manifest's own sum")
    else:
        findings.notes.append(
            f"schema {manifest.schema_version} states no sums: files were not summed"
        )
    return manifest


def check_files(
    bundle: Path, manifest: Manifest | None, findings: Findings
) -> frozenset[str]:
    """Compare each file with the lists; return the paths that are as they were.

    A manifest without artifacts (v4.0) leaves the paths of the list of sums, if any.
    """
    artifacts = {a.path: a for a in manifest.artifacts} if manifest else {}
    sums = _read_sums(bundle, bool(artifacts), findings)
    if manifest is not None and artifacts:
        _compare_lists(manifest.artifacts, artifacts, sums, findings)
    expected = {path: item.sha256 for path, item in artifacts.items()} | (sums or {})
    if not findings.is_broken(MANIFEST):  # else the list decides, and says no sizes
        expected |= {path: item.sha256 for path, item in artifacts.items()}
    elif sums:
        artifacts = {}
    intact = {
        path
        for path, digest in expected.items()
        if not findings.is_broken(path)  # the list of sums, told of above
        and _check_file(bundle, path, digest, artifacts.get(path), findings)
    }
    if expected:
        findings.checks.append(f"sums of {len(expected)} files")
        _find_unexpected(bundle, {*expected, MANIFEST, SUMS}, findings)
    return frozenset(intact)


def _read_sums(bundle: Path, needed: bool, findings: Findings) -> dict[str, str] | None:
    """Return the list; None where it is missing and needed, or cannot be read."""
    try:
        return parse_sums((bundle / SUMS).read_bytes())
    except FileNotFoundError:
        if not needed:
            return {}
        findings.break_file(SUMS, "whole file", "missing")
    except BundleError as error:
        findings.add(SUMS, "whole file", str(error))
    except OSError as error:
        blame_no_bundle(error)
        problem = f"cannot be read: {error.strerror or error}"
        findings.break_file(SUMS, "whole file", problem)
    return None


def _compare_lists(
    listed: tuple[Artifact, ...],
    artifacts: dict[str, Artifact],
    sums: dict[str, str] | None,
    findings: Findings,
) -> None:
    for path, times in Counter(item.path for item in listed).items():
        if times > 1:
            findings.add(MANIFEST, "artifacts", f"{path} is listed {times} times")
    if SUMS not in artifacts:
        findings.add(MANIFEST, "artifacts", f"{SUMS} is not listed")
    if sums is None:
        return
    for path, item in artifacts.items():
        if path == SUMS or sums.get(path) == item.sha256:
            continue
        if findings.is_broken(MANIFEST):
            findings.add(MANIFEST, f"artifacts {path}", f"differs from {SUMS}")
        else:
            findings.add(SUMS, f"entry {path}", "differs from the manifest's sum")
    for path in sums.keys() - artifacts.keys():
        findings.add(SUMS, f"entry {path}", "is not in the manifest")


def _check_file(
    bundle: Path, name: str, digest: str, item: Artifact | None, findings: Findings
) -> bool:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        findings.break_file(name, "whole file", "the name leads out of the bundle")
        return False
    try:
        return _is_as_listed(bundle, name, digest, item, findings)
    except OSError as error:  # no permission, a bad sector, a name too long
        blame_no_bundle(error)
        findings.break_file(
            name, "whole file", f"cannot be read: {error.strerror or error}"
        )
        return False


def _is_as_listed(
    bundle: Path, name: str, digest: str, item: Artifact | None, findings: Findings
) -> bool:
    path = bundle / name
    if not path.is_file() or _through_link(bundle, path):
        findings.break_file(name, "whole file", "missing, or not a plain file")
        return False
    size = path.stat().st_size
    if item is not None and size != item.bytes:
        end = "breaks off" if size < item.bytes else "goes on"
        findings.break_file(
            name,
            f"byte {min(size, item.bytes)}",
            f"{end}: {size} of {item.bytes} bytes",
        )
        return False
    if file_sha256(path) != digest:
        findings.add(name, f"bytes 0-{size}", "the SHA-256 differs")
        return False
    return True


def _through_link(bundle: Path, path: Path) -> bool:
    inside = path.relative_to(bundle)
    return any((bundle / part).is_symlink() for part in (inside, *inside.parents[:-1]))


def _find_unexpected(bundle: Path, expected: set[str], findings: Findings) -> None:
    folders = {
        parent.as_posix() for path in expected for parent in PurePosixPath(path).parents
    }
    for parent, inner, names in os.walk(bundle):
        here = Path(parent).relative_to(bundle)
        found = [(name, expected) for name in names] + [(n, folders) for n in inner]
        for name, allowed in sorted(found, key=lambda pair: os.fsencode(pair[0])):
            path = (here / name).as_posix()
            if path not in allowed:
                findings.add(path, "whole file", "does not belong to the bundle")
