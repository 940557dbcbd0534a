"""Real text, and the libraries that answer for what is right."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
import qdrant_edge
from fastembed.sparse.bm25 import Bm25 as FastembedBm25

from processor.ultimate_embedder.encoders.words import STOP_WORDS

HOSTILE_TEXTS = (
    "",
    " \n\t ",
    "the and of",
    "The AND oF THE",
    "don't DON'T we'll they’re o'clock",
    "foo_bar __init__ _ _private a_ _b__c snake_case_name",
    "x" * 39 + " " + "x" * 40 + " " + "x" * 41 + " " + "y" * 5000,
    "é" * 40 + " " + "é" * 41,
    "naïve café NAÏVE CAFÉ cafe\u0301 nai\u0308ve",
    "İstanbul ISTANBUL ıstanbul ﬁne ﬂow Straße STRASSE ẞ",
    "ΑΣ'Α ΟΔΟΣ οδός Σ ΣΣ",
    "हिन्दी भाषा தமிழ் ไทย ភាសា",
    "你好,世界!日本語のテキスト。한국어 텍스트",
    "hello🎉world 👩‍👩‍👧‍👦 🇫🇷 Ⓐⓑ ① ½ x² ¹²³ ٣٤٥ Ⅷ",
    "𝒜𝓁𝑔𝑒𝒷𝓇𝒶 𐐀𐐨 𝟘𝟙 \U00010d50\U00010d51 \ua7cb",
    "a\u200bb a\u00adb a\u2060b a\u00a0b a\u3000b a\x1cb a\u2028b",
    "1 22 3.14 1e10 0x1F v1.2.3 2024-01-02 10,000",
    "a.b.c::d->e(f)[g]{h}<i>=j+k*l/m%n^o&p|q~r`s@t#u$v!w?x",
    "Running runs ran runner RUNNING generously general generals",
    "¼µª_º" * 3,
    "\x00\x01control\x7fcharacters\ufffe\uffff",
    "ͣcombining ⃝enclosing a⃝b",
    "ad1u66pi",  # its murmur3 is -2^31
)


def real_texts() -> list[str]:
    """READMEs and sources of installed packages, in pieces of 1,500 characters."""
    texts = [
        importlib.metadata.metadata(name).get_payload()
        for name in ("fastembed", "qdrant-client", "hypothesis", "numpy", "pytest")
    ]
    for name in ("fastembed", "qdrant_client", "tokenizers"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        files = sorted(Path(spec.origin).parent.rglob("*.py"))[:40]
        texts += [path.read_text(encoding="utf-8") for path in files]
    pieces = [
        text[start : start + 1500]
        for text in texts
        for start in range(0, len(text), 1500)
    ]
    assert len(pieces) > 500
    return pieces


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return real_texts()


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    return HOSTILE_TEXTS


@pytest.fixture(scope="session")
def engine() -> qdrant_edge.Bm25:
    return qdrant_edge.Bm25(qdrant_edge.Bm25Config(avg_len=100.0))


@pytest.fixture(scope="session")
def fastembed_bm25(tmp_path_factory: pytest.TempPathFactory) -> FastembedBm25:
    """With stop-words for certain: without the file it would run with none."""
    folder = tmp_path_factory.mktemp("bm25")
    (folder / "english.txt").write_text("\n".join(sorted(STOP_WORDS)))
    oracle = FastembedBm25(
        "Qdrant/bm25", specific_model_path=str(folder), avg_len=100.0
    )
    assert oracle.stopwords == STOP_WORDS
    assert len(next(iter(oracle.embed(["the and of"]))).indices) == 0
    return oracle
