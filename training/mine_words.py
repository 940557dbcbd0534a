"""The word lists of words.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

_TABLE = tomllib.loads(
    Path(__file__).with_name("words.toml").read_text(encoding="utf-8")
)


def word_list(name: str) -> frozenset[str]:
    """The words listed under a name."""
    return frozenset(_TABLE[name].split())
