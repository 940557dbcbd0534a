"""Queries as people write them: a mined sentence turned into one of five styles.

The style is drawn from a hash of the sentence, so the same sentence always gives
the same query.
"""

from __future__ import annotations

import re

from training.mine_pairs import WORD, share
from training.mine_words import word_list

STOP = word_list("stop")
IMPERATIVE = {
    **{verb + ending: verb for verb in word_list("verbs") for ending in ("", "s")},
    **dict.fromkeys(word_list("get"), "get"),
    "applies": "apply",
    "matches": "match",
    "searches": "search",
}
# "The following `name` example adds ..." says what is wanted from "adds" on.
EXAMPLE_OF = re.compile(
    r"^(the following|this)(?: [\w`'.-]+){0,4}? (example|command|code|snippet)s?"
    r"(?: [a-z`-]+ command)? (shows? (you )?how to )?(?=[a-z]+)",
    re.IGNORECASE,
)
LANGUAGE = {"py": "python", "js": "javascript", "rs": "rust", "go": "go", "c": "c"}


def plain(text: str) -> str:
    """A sentence on one line without markup and without its last punctuation."""
    text = re.sub(r":[a-z:+-]+:`~?([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`{1,2}([^`]*?)(?:\s*<[^>`]*>)?`{1,2}_{0,2}", r"\1", text)
    text = re.sub(r"<[^>]{1,80}>", " ", text)
    text = re.sub(r"(\*\*|__)(.+?)\1", r"\2", text)
    text = re.sub(r"(?<!\w)\*(\S[^*]*?)\*(?!\w)", r"\1", text)
    text = re.sub(r"(?<!\w)~\.?(?=[A-Za-z])", "", text)
    return " ".join(text.split()).strip(" \t:;,.!-–—#*")


def question(sentence: str, language: str = "") -> str | None:
    """An imperative sentence as a question; None where the verb is not known."""
    first, _, rest = sentence.partition(" ")
    verb = IMPERATIVE.get(first.lower().strip(",:"))
    if verb is None or len(rest.split()) < 2:
        return None
    draw = share("question" + sentence)
    rest = rest.rstrip(".?!")
    place = f" in {language}" if language and draw > 0.5 else ""
    opening = ("how to", "how do I", "how can I", "what is the way to")[
        int(draw * 40) % 4
    ]
    mark = "?" if draw < 0.5 else ""
    return f"{opening} {verb} {rest}{place}{mark}"


def keywords(sentence: str, language: str = "") -> str | None:
    """Three to six content words of a sentence in their order."""
    found = [w for w in WORD.findall(sentence) if w.lower() not in STOP]
    found = list(dict.fromkeys(found))
    if len(found) < 3:
        return None
    wanted = 3 + int(share("many" + sentence) * 4)
    # The longest words say most; their order in the sentence is kept.
    chosen = sorted(found, key=lambda w: (-len(w), w))[:wanted]
    kept = " ".join(w.lower() for w in found if w in chosen)
    return f"{language} {kept}".strip() if share("p" + sentence) < 0.4 else kept


def terse(sentence: str, language: str = "") -> str:
    """A sentence in lower case without articles, as typed into a search box."""
    kept = [w for w in sentence.split() if w.lower() not in {"a", "an", "the"}]
    text = " ".join(kept).lower().rstrip(".?!,;:")
    asks = sentence.partition(" ")[0].lower() in IMPERATIVE
    return (
        f"{language} {text}".strip() if asks and share("l" + sentence) < 0.6 else text
    )


def vary(sentence: str, suffix: str = "") -> str:
    """The query a sentence becomes; `suffix` names the language of its document."""
    sentence = EXAMPLE_OF.sub("", plain(sentence))
    language = LANGUAGE.get(suffix, "")
    draw = share("style" + sentence)
    styled: str | None = None
    if draw < 0.22:
        styled = question(sentence, language)
    elif draw < 0.36:
        styled = keywords(sentence, language)
    elif draw < 0.52:
        styled = terse(sentence, language)
    elif draw < 0.62:
        styled = sentence.lower()
    elif draw < 0.72 and sentence and sentence[-1].isalnum():
        styled = sentence + "."
    return styled or sentence
