"""A bundle that a run replaces while it is opened: one bundle or the other, no mix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from search_parts import RAN, TEXTS, FakeEncoders, MakeBundle, write_bundle

from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.search import Stage, open_bundle, parts

QUERY = "how to filter by payload"


def exchange(one: Path, other: Path) -> None:
    """Swap two folders, as the end of a run does in one step."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.fixture
def two(make_bundle: MakeBundle, tmp_path: Path) -> tuple[Path, Path]:
    """A bundle, and one of the same chunks in another order."""
    return make_bundle(rerank=RAN), write_bundle(tmp_path / "new", texts=TEXTS[::-1])


def exchanging(
    monkeypatch: pytest.MonkeyPatch, one: Path, other: Path, times: int
) -> None:
    """Exchange the bundles when vectors are open already and postings are not yet."""
    left = [None] * times
    real: Callable[..., Any] = parts.open_sparse

    def open_sparse(*arguments: Any) -> Any:
        if left:
            left.pop()
            exchange(one, other)
        return real(*arguments)

    monkeypatch.setattr(parts, "open_sparse", open_sparse)


@pytest.mark.parametrize("stage", ["dense", "sparse", "fused"])
def test_a_bundle_replaced_while_it_is_opened_is_opened_anew(
    two: tuple[Path, Path], stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_bundle(two[1], FakeEncoders()).search(QUERY, stage=stage)
    exchanging(monkeypatch, *two, times=1)
    opened = open_bundle(two[0], FakeEncoders())
    assert opened.search(QUERY, stage=stage) == expected
    assert "reranked" in opened.missing  # the manifest is the new one's, too


def test_a_file_that_the_new_bundle_lacks_is_no_damage(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_bundle(), write_bundle(tmp_path / "new", sparse=False)
    exchanging(monkeypatch, old, new, times=1)
    opened = open_bundle(old, FakeEncoders())
    assert "Sparse was off" in opened.missing["sparse"]
    assert opened.search(QUERY, stage="dense")


def test_a_bundle_replaced_again_and_again_is_refused_with_the_cure(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanging(monkeypatch, *two, times=99)
    with pytest.raises(BundleError, match="each time it was opened") as refused:
        open_bundle(two[0], FakeEncoders())
    assert "no run writes it" in (refused.value.cure or "")


def test_files_opened_later_are_those_of_the_bundle_that_was_opened(
    two: tuple[Path, Path],
) -> None:
    """Its own files stay mapped; only what was never opened cannot be had."""
    opened = open_bundle(two[0], FakeEncoders())
    expected = opened.search(QUERY)
    exchange(*two)
    with pytest.raises(BundleError, match="no longer holds") as refused:
        opened.rankings(QUERY, 10)
    assert "Open it again" in (refused.value.cure or "")
    assert opened.search(QUERY) == expected
    assert open_bundle(two[0], FakeEncoders()).rankings(QUERY, 10).lists
