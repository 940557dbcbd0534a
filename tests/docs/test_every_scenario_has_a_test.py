"""openspec/scenario_tests.toml ties each scenario to tests, in both directions."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPECS = ROOT / "openspec" / "specs"
TABLE: dict[str, dict[str, list[str]]] = tomllib.loads(
    (ROOT / "openspec" / "scenario_tests.toml").read_text(encoding="utf-8")
)
SCENARIOS = [
    (path.parent.name, title.strip())
    for path in sorted(SPECS.glob("*/spec.md"))
    for title in re.findall(
        r"^#### Scenario: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
]


@cache
def functions(file: str) -> frozenset[str]:
    """Return the names of the test functions in a file, `Class::name` in a class."""
    path = ROOT / file
    assert path.is_file(), f"{file} does not exist"
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef)
            }
    return frozenset(found)


def test_scenarios_are_found() -> None:
    assert len(SCENARIOS) == len(set(SCENARIOS)) > 0


@pytest.mark.parametrize(("capability", "title"), SCENARIOS)
def test_every_scenario_names_a_test_that_exists(capability: str, title: str) -> None:
    tests = TABLE.get(capability, {}).get(title, [])
    assert tests, "no test is listed"
    for test in tests:
        file, _, name = test.partition("::")
        assert name.split("::")[-1].startswith("test_"), test
        assert name in functions(file), f"{test} does not exist"


def test_the_table_lists_no_scenario_that_is_not_specified() -> None:
    listed = {(name, title) for name, tests in TABLE.items() for title in tests}
    assert listed <= set(SCENARIOS), listed - set(SCENARIOS)
