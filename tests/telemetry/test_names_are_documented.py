"""Every name of a span, an attribute, an event, a metric and a label has its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from processor.ultimate_embedder.telemetry import names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "watch-it.md"
SPANS = [value for value in vars(names).values() if str(value).startswith("rag.")]
LABELS = [label for labels in names.METRIC_LABELS.values() for label in labels]


@pytest.mark.parametrize(
    "name",
    [*SPANS, *names.STAGE_SPANS.values(), *names.METRIC_LABELS, *LABELS],
)
def test_a_name_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


def test_names_are_found_and_none_is_used_twice() -> None:
    assert len(SPANS) > 25
    assert len(set(SPANS)) == len(SPANS)
