"""Text to stems, by a named profile: the words BM25 counts.

A text is first cut into pieces at the ASCII characters that belong to no word (a table
over bytes, and the same pieces come again and again), a piece into runs by one regular
expression, then a run becomes lower-case words without stop-words, stemmed by
Snowball's English rules (Porter 2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

import mmh3
from py_rust_stemmers import SnowballStemmer

from ..errors import UsageError
from .identifiers import IdentifierRules
from .word_characters import newer_small_letters, word_ranges

QDRANT_WORD: Final = "qdrant-word"
FASTEMBED: Final = "fastembed"
CODE: Final = "code"

RULES_REVISION: Final = 1
"""Raised when a profile gives other words: stored vectors are then made anew."""

_ENGLISH = """
a about above after again against ain all am an and any are aren as at be because
been before being below between both but by can couldn d did didn do does doesn
doing don down during each few for from further had hadn has hasn have haven having
he her here hers herself him himself his how i if in into is isn it its itself just
ll m ma me mightn more most mustn my myself needn no nor not now o of off on once
only or other our ours ourselves out over own re s same shan she should shouldn so
some such t than that the their theirs them themselves then there these they this
those through to too under until up ve very was wasn we were weren what when where
which while who whom why will with won wouldn y you your yours yourself yourselves
"""
STOP_WORDS: Final = frozenset(_ENGLISH.split())
"""The English list of the Snowball project and what contractions leave behind.

127 words are those PostgreSQL ships as `english.stop`; the other 26 are the pieces of
don't, they'll, we're ... after a split at the apostrophe. Qdrant's engine drops exactly
these (a test asks it), and its longer list adds only forms with an apostrophe, which no
tokenizer here produces.
"""

_DROPPED: Final = STOP_WORDS | {"_"}  # fastembed drops it; elsewhere it never occurs


def stemmer() -> SnowballStemmer:
    """Return a new English Snowball stemmer, as Qdrant and fastembed use."""
    return SnowballStemmer("english")


def token_id(stem: str) -> int:
    """Return |murmur3-32(stem)|, seed 0: 0 to 2^31, the index of a sparse vector."""
    number: int = mmh3.hash(stem)
    return abs(number)


@dataclass(frozen=True, slots=True)
class WordProfile:
    """How texts are cut into words.

    `runs` cuts a text into stretches of word characters; `words` turns one of them into
    lower-case words; `longest` is the length over which words are dropped. `table` maps
    bytes of UTF-8: what is in no word to a space and, where case means nothing,
    capitals to small letters. `plain` says that an ASCII piece is then one word.
    """

    name: str
    runs: Callable[[str], list[str]]
    words: Callable[[str], list[str]]
    longest: int | None
    table: bytes
    plain: bool = False

    def pieces(self, text: str) -> list[bytes]:
        """Return the text cut where its table has spaces; `piece_stems` does the rest.

        Only ASCII is looked at: other characters have no byte in common with it.
        """
        return text.encode("utf-8", "surrogatepass").translate(self.table).split()

    def piece_stems(self, piece: bytes, stem: Callable[[str], str]) -> list[str]:
        """Return the stems of one piece, in order."""
        if self.plain and piece.isascii():  # nearly all: no detour for these
            word = piece.decode()
            if word in _DROPPED or len(word) > (self.longest or len(word)):
                return []
            stemmed = stem(word)
            return [stemmed] if stemmed else []
        text = piece.decode("utf-8", "surrogatepass")
        return [found for run in self.runs(text) for found in self.stems(run, stem)]

    def stems(self, run: str, stem: Callable[[str], str]) -> list[str]:
        """Return the stems of one run: stop-words, overlong and empty ones gone."""
        kept = (
            word
            for word in self.words(run)
            if word not in _DROPPED
            and (self.longest is None or len(word) <= self.longest)
        )
        return [stemmed for stemmed in map(stem, kept) if stemmed]


def _byte_table(*, kept: str = "", fold: bool) -> bytes:
    """Return the table that keeps letters, digits, `kept` and all beyond ASCII."""
    characters = [chr(code) for code in range(128)]
    return bytes(
        ord((one.lower() if fold else one) if one.isalnum() or one in kept else " ")
        for one in characters
    ) + bytes(range(128, 256))


def _character_class(ranges: list[tuple[int, int]]) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@dataclass(frozen=True, slots=True)
class _Alphanumerics:
    """What is a word character to Qdrant's server, and its small letter.

    Python's `re` is slow on classes beyond the basic plane: `basic` takes all of the
    other planes, and the few runs that hold such characters are cut by `exact` later.
    """

    basic: re.Pattern[str]
    exact: re.Pattern[str]
    small_letters: Mapping[int, int]

    def pieces(self, run: str) -> list[str]:
        """Return a run of `basic` characters without what does not belong there."""
        if run.isascii() or max(run) < "\U00010000":
            return [run]
        return self.exact.findall(run)

    def lower(self, piece: str) -> str:
        lowered = piece.lower()
        return lowered if piece.isascii() else lowered.translate(self.small_letters)


def _alphanumerics(more: str = "") -> _Alphanumerics:
    """Return the characters, and those of `more` with them."""
    ranges = word_ranges()
    basic = [pair for pair in ranges if pair[1] < 0x10000]
    return _Alphanumerics(
        basic=re.compile(f"[{_character_class([*basic, (0x10000, 0x10FFFF)])}{more}]+"),
        exact=re.compile(f"[{_character_class(ranges)}{more}]+"),
        small_letters=newer_small_letters(),
    )


def _qdrant_word() -> WordProfile:
    """Cut at every character that is not alphanumeric, as Qdrant's server does."""
    characters = _alphanumerics()

    def words(run: str) -> list[str]:
        return [characters.lower(piece) for piece in characters.pieces(run)]

    return WordProfile(
        QDRANT_WORD,
        characters.basic.findall,
        words,
        longest=None,
        table=_byte_table(fold=True),
        plain=True,
    )


def _fastembed() -> WordProfile:
    """Cut as fastembed's `Bm25`: by Python's word characters, before and after
    lower-casing (which makes two characters of some), a lone underscore dropped.
    """
    runs = re.compile(r"\w+")

    def words(run: str) -> list[str]:
        lowered = run.lower()
        pieces = [lowered] if run.isascii() else runs.findall(lowered)
        return [piece for piece in pieces if piece != "_"]

    return WordProfile(
        FASTEMBED,
        runs.findall,
        words,
        longest=40,
        table=_byte_table(kept="_", fold=True),
        plain=True,
    )


def code_profile(rules: IdentifierRules) -> WordProfile:
    """Return the profile `code` by the given rules.

    A run is an identifier: alphanumeric characters and underscores. With the rules as
    they stand its words are those of `qdrant-word` and more.
    """
    characters = _alphanumerics("_")

    def words(run: str) -> list[str]:
        return [
            word
            for identifier in characters.pieces(run)
            for word in rules.words(
                [segment for segment in identifier.split("_") if segment],
                characters.lower,
            )
        ]

    return WordProfile(
        CODE,
        characters.basic.findall,
        words,
        longest=None,
        table=_byte_table(kept="_", fold=False),
    )


_MAKERS: Mapping[str, Callable[[], WordProfile]] = MappingProxyType(
    {
        QDRANT_WORD: _qdrant_word,
        FASTEMBED: _fastembed,
        CODE: lambda: code_profile(IdentifierRules()),
    }
)


@cache
def word_profile(name: str) -> WordProfile:
    """Return the profile called `name`.

    Raises:
        UsageError: naming the profiles that exist.
    """
    if name not in _MAKERS:
        raise UsageError(
            f"No BM25 tokenizer profile is called '{name}'.",
            cure=f"Known: {', '.join(_MAKERS)}.",
        )
    return _MAKERS[name]()
