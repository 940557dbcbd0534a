"""The profile `code` takes identifiers apart as a reader of their capitals would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder, TermCounter
from processor.ultimate_embedder.encoders.identifiers import (
    LONGEST_CUT,
    IdentifierRules,
)
from processor.ultimate_embedder.encoders.words import (
    code_profile,
    stemmer,
    token_id,
    word_profile,
)

SMALL_WITHOUT_TABLE = {"\ua7cd", "\ua7db", "\u019b", "\u0264"}
"""Small letters whose capitals are newer than this Python's character tables."""

IDENTIFIERS = st.text(
    st.one_of(
        st.sampled_from("aabsszABSXZ019_._-"),
        st.sampled_from("éÉßẞσςΣДдǅİıﬁªＡａ٣½日本हि𝒜𐐀𐐨\u0301\u0264\ua7cb\U00010d50"),
        st.characters(),
    ),
    max_size=70,
)


def words_of(text: str) -> list[str]:
    profile = word_profile("code")
    return [word for run in profile.runs(text) for word in profile.words(run)]


# The reference: one character at a time, by what each is.


def is_capital(character: str) -> bool:
    # The engine's profile lower-cases by Unicode 17 whatever this Python knows.
    (word,) = word_profile("qdrant-word").words(character) or [character]
    return word != character


def is_small(character: str) -> bool:
    if is_capital(character):
        return False
    newer = character in SMALL_WITHOUT_TABLE or (
        "\U00010d70" <= character <= "\U00010d85"
        or "\U00016ebb" <= character <= "\U00016ed3"
        or character in "\u1c8a\ua7cf\ua7d3\ua7d5"
    )
    return newer or character.upper() != character


def is_digit(character: str) -> bool:
    return character in "0123456789"


def slow_parts(segment: str) -> list[str]:
    if len(segment) > LONGEST_CUT:
        return [segment]
    parts = [""]
    for place, character in enumerate(segment):
        before = segment[place - 1] if place else ""
        after = segment[place + 1] if place + 1 < len(segment) else ""
        plural = after == "s" and place + 2 == len(segment)
        starts = False
        if before:
            if is_capital(character):
                ends_small = is_small(before)
                starts = ends_small or (after != "" and is_small(after) and not plural)
            if is_digit(character) != is_digit(before):
                starts = True
        if starts:
            parts.append("")
        parts[-1] += character
    return parts


def slow_words(text: str) -> list[str]:
    plain = word_profile("qdrant-word")

    def lower(word: str) -> str:
        return "".join(plain.words(word))

    def alphanumeric(character: str) -> bool:
        return plain.runs(character) != [] and plain.words(character) != []

    identifiers: list[list[str]] = [[]]
    for character, before in zip(text, " " + text, strict=False):
        if alphanumeric(character):
            if not alphanumeric(before):
                identifiers[-1].append("")
            identifiers[-1][-1] += character
        elif character != "_":
            identifiers.append([])
    found = []
    for segments in identifiers:
        if len(segments) > 1:
            found.append(lower("".join(segments)))
        for segment in segments:
            found.append(lower(segment))
            parts = slow_parts(segment)
            if len(parts) > 1:
                found += [lower(part) for part in parts if len(part) > 1]
    return found


@given(IDENTIFIERS)
def test_any_text_has_the_words_of_the_slow_reference(text: str) -> None:
    assert words_of(text) == slow_words(text)


def test_real_text_has_the_words_of_the_slow_reference(corpus: list[str]) -> None:
    for text in corpus[::20]:
        assert words_of(text) == slow_words(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HTTPServer", "httpserver http server"),
        ("getUserID", "getuserid get user id"),
        ("parse_http_urls", "parsehttpurls parse http urls"),
        ("os.path.joinAll", "os path joinall join all"),
        ("std::unordered_map", "std unorderedmap unordered map"),
        ("v1beta2", "v1beta2 beta"),
        ("utf8", "utf8 utf"),
        ("sha256sum", "sha256sum sha 256 sum"),
        ("S3BucketPolicy", "s3bucketpolicy bucket policy"),
        ("URLs of GPUs", "urls of gpus"),
        ("mRNA", "mrna rna"),
        ("__init__", "init"),
        ("MAX_SIZE", "maxsize max size"),
        ("ΩμέγαΔέλτα", "ωμέγαδέλτα ωμέγα δέλτα"),
        ("plain words, 2 of them", "plain words 2 of them"),
        ("_ __ ._.", ""),
        ("foo🎉bar_baz", "foo barbaz bar baz"),
    ],
)
def test_identifiers_give_themselves_and_their_parts(text: str, words: str) -> None:
    assert words_of(text) == words.split()


@pytest.mark.parametrize("query", ["maxRetries", "max_retries", "MaxRetries", "retry"])
def test_one_name_is_found_in_any_way_of_writing_it(query: str) -> None:
    encoder = Bm25Encoder("code")
    (found,) = encoder.encode_documents(["def maxRetries(): ..."])
    (other,) = encoder.encode_documents(["max_retries = 3"])
    asked = encoder.encode_query(query).indices
    assert np.isin(asked, found.indices).all()
    assert np.isin(asked, other.indices).all()


@given(IDENTIFIERS)
def test_code_has_every_term_of_the_engines_profile(text: str) -> None:
    plain, code = TermCounter("qdrant-word"), TermCounter("code")
    assert np.isin(plain.token_ids(text), code.token_ids(text)).all()


def test_stop_words_count_neither_alone_nor_as_parts() -> None:
    stem = stemmer().stem_word
    ids = TermCounter("code").token_ids("is_not_none")
    wanted = {token_id(stem("isnotnone")), token_id(stem("none"))}
    assert set(ids.tolist()) == wanted


@given(st.lists(IDENTIFIERS, max_size=5))
def test_counts_are_those_of_the_words_one_by_one(texts: list[str]) -> None:
    profile, stem = word_profile("code"), stemmer().stem_word
    counted = TermCounter("code").count(texts)
    for row, text in enumerate(texts):
        stems = [s for run in profile.runs(text) for s in profile.stems(run, stem)]
        span = slice(counted.indptr[row], counted.indptr[row + 1])
        seen = dict(zip(counted.ids[span].tolist(), counted.counts[span], strict=True))
        assert counted.lengths[row] == len(stems)
        assert seen == {token_id(s): stems.count(s) for s in set(stems)}


def test_encoded_data_is_one_word() -> None:
    blob = "aGVsbG8gd29ybGQ" * 5
    assert len(blob) > LONGEST_CUT
    assert words_of(blob) == [blob.lower()]
    assert len(words_of(blob[:LONGEST_CUT])) > 5


@pytest.mark.parametrize("piece", ["aA", "A", "Aa", "a0", "_", "aB_", "As"])
def test_a_hostile_identifier_of_a_million_characters_is_counted(piece: str) -> None:
    # A pattern that went back over its steps would not end.
    text = piece * (1_000_000 // len(piece)) + "!"
    vector = Bm25Encoder("code").encode_query(text)
    assert (np.diff(vector.indices.astype(np.int64)) > 0).all()
    IdentifierRules().parts(text[:LONGEST_CUT])


def test_rules_turn_off_what_they_name() -> None:
    def words(rules: IdentifierRules) -> list[str]:
        profile = code_profile(rules)
        (run,) = profile.runs("fooBar_utf8")
        return profile.words(run)

    whole = ["foobarutf8", "foobar", "foo", "bar", "utf8", "utf"]
    assert words(IdentifierRules()) == whole
    assert words(IdentifierRules(joined=False)) == whole[1:]
    assert words(IdentifierRules(whole=False, joined=False)) == ["foo", "bar", "utf"]
    assert words(IdentifierRules(digits=False)) == whole[:-1]
    assert words(IdentifierRules(shortest=1)) == [*whole, "8"]
