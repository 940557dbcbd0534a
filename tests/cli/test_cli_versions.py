"""Library versions are shown, and compared with what the package asks for."""

from __future__ import annotations

from importlib import metadata

import pytest

from processor.ultimate_embedder import libraries
from processor.ultimate_embedder.cli.versions import (
    SHOWN,
    installed_versions,
    version_warnings,
)


def test_the_versions_are_those_that_are_installed() -> None:
    versions = installed_versions()
    assert tuple(versions) == SHOWN
    assert versions["numpy"] == metadata.version("numpy")


def test_a_library_that_is_missing_is_left_out_and_those_after_it_are_found() -> None:
    found = libraries.installed_versions(("numpy", "no-such-library", "orjson"))
    assert found == {name: metadata.version(name) for name in ("numpy", "orjson")}


def test_what_is_installed_here_is_in_the_tested_range() -> None:
    assert version_warnings(installed_versions()) == []


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("2.10.0", ">=2,<3", True),
        ("2.0", ">=2.0.0,<3", True),
        ("3.0.0", ">=2,<3", False),
        ("1.26.4", ">=2,<3", False),
        ("2.13.0+cpu", ">=2.5,<2.14", True),
        ("2.14.0a0", ">=2.5,<2.14", False),
        ("2.9.1", ">=2.10", False),
        ("not installed", ">=2", True),
    ],
)
def test_a_library_outside_its_range_is_warned_of(
    version: str, bounds: str, fits: bool
) -> None:
    warnings = version_warnings({"numpy": version}, [f"numpy ({bounds})", "odd @@"])
    assert (warnings == []) is fits
    if not fits:
        assert version in warnings[0]
        assert bounds in warnings[0]


def test_the_bounds_of_an_extra_are_read_before_its_marker() -> None:
    requirement = 'qdrant-client>=1.16,<2; extra == "qdrant"'
    assert version_warnings({"qdrant-client": "1.20.1"}, [requirement]) == []
    assert version_warnings({"qdrant-client": "1.2"}, [requirement]) != []
