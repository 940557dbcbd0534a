"""What the torture tests tell of themselves, and the page made of it.

A test takes `promise` and says what holds; the rounds it really ran are counted. With
`--reliability FILE` the promises, rounds and outcomes become a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promise
from reliability_page import Kept, page

LONG_TEST_SECONDS = 7200


@pytest.fixture
def promise(record_property: Callable[[str, object], None]) -> Iterator[Promise]:
    told = Promise(record_property)
    yield told
    record_property("rounds", max(1, told.done))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, help="write the page of promises here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("torture"):
            item.add_marker(pytest.mark.timeout(LONG_TEST_SECONDS))


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--reliability")
    if target is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(PageWriter(target))


class PageWriter:
    """Writes the page anew after each test: hours of rounds outlive an interruption."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self._tests.setdefault(report.nodeid, {"outcome": "passed"})
        known |= dict(report.user_properties)
        if report.outcome != "passed":
            known["outcome"] = report.outcome
            known["reason"] = str(report.longrepr).splitlines()[-1]
        if report.when == "teardown" and "promise" in known:
            self._write(report.nodeid, known)

    def _write(self, name: str, known: dict[str, Any]) -> None:
        kept = Kept(
            promise=str(known["promise"]),
            test=name,
            rounds=int(known.get("rounds", 0)),
            outcome=str(known["outcome"]),
            reason=str(known.get("reason", "")),
        )
        there = self._target.exists()
        before = self._target.read_text(encoding="utf-8") if there else ""
        self._target.write_text(page([kept], before), encoding="utf-8")
