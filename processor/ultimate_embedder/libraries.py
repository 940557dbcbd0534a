"""Versions of the libraries that decide bytes, asked for without importing them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import Final

OF_A_BUNDLE: Final = (
    "ultimate-embedder",
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "onnxruntime",
    "py-rust-stemmers",
    "mmh3",
    "faiss-cpu",
    "orjson",
)
"""What a bundle's bytes depend on: its manifest states them, and another version of one
makes it anew.
"""


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those that are installed; one of an extra may not be."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


GPU_KERNELS_REVISION = 2
"""Raised when the same pass on a GPU comes to give other bytes: other kernels are
chosen there, and what earlier versions computed is not taken over."""
