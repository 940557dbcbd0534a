"""What becomes of texts over the window is one setting, decided like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.settings import Settings, resolve


def settled(directory: Path, *, command: str = "", variable: str = "") -> Settings:
    return resolve(
        {"long_texts": (command, "--long-texts")} if command else {},
        directory=directory,
        environment={"EMBEDDER_LONG_TEXTS": variable} if variable else {},
        kaggle_root=directory / "no-kaggle",
    )


def decided(settings: Settings) -> tuple[str, str]:
    entries = {entry.key: entry for entry in settings.pipeline.provenance}
    entry = entries["long_texts"]
    assert entry.value == settings.pipeline.long_texts
    return entry.value, entry.layer


def test_long_texts_are_embedded_in_windows_unless_asked(tmp_path: Path) -> None:
    assert decided(settled(tmp_path)) == ("windows", "default")


def test_each_layer_can_ask_for_a_cut(tmp_path: Path) -> None:
    assert decided(settled(tmp_path, command="cut")) == ("cut", "command line")
    assert decided(settled(tmp_path, variable="cut")) == ("cut", "environment")
    (tmp_path / "ultimate-embedder.toml").write_text('long_texts = "cut"\n')
    assert decided(settled(tmp_path)) == ("cut", "config file")
    both = settled(tmp_path, command="windows", variable="cut")
    assert decided(both) == ("windows", "command line")


def test_another_word_is_refused_with_those_allowed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"EMBEDDER_LONG_TEXTS.*windows, cut"):
        settled(tmp_path, variable="truncate")
