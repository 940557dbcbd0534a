"""Pairs from prose in reStructuredText and Markdown.

Each section gives its heading, its code, its definitions or its first sentence
away as queries; what is given away leaves the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from training.mine_commands import COMMAND, commands, commented_commands, is_command
from training.mine_pages import Block, Section, clean
from training.mine_pairs import Pair, first_sentence, share
from training.mine_queries import plain, vary

REFERENCE = re.compile(r":(?:ref|doc|std:ref):`(?:[^`<]*<([^>`]+)>|([^`<]+))`")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
QUESTION = re.compile(
    r"^(how|what|why|when|where|which|who|can|does|do|is|are|should|will|i |my )\b.*",
    re.IGNORECASE,
)


def prose_pairs(pages: list[Section]) -> Iterator[Pair]:
    """Every pair of a package's pages but those of its references."""
    for section in pages:
        blocks, pairs = _give_code(section)
        yield from pairs
        blocks, pairs = _give_items(section, blocks)
        yield from pairs
        yield from _give_words(replace(section, blocks=blocks))


def _give_code(section: Section) -> tuple[list[Block], list[Pair]]:
    """The blocks without code that a sentence introduces, and those pairs."""
    kept: list[Block] = []
    pairs: list[Pair] = []
    for block in section.blocks:
        before = kept[-1] if kept else Block("", "")
        if block.kind != "code" or before.kind != "text" or len(block.text) > 3000:
            kept.append(block)
            continue
        earlier, sentence = _last_sentence(clean(before.text))
        if share("code" + block.text) < 0.35 or len(sentence.split()) < 3:
            kept.append(block)
            continue
        pairs += _code_pairs(sentence, block)
        # The sentence is the query: it must not stand in the section's own text.
        kept[-1:] = [Block("text", earlier)] if len(earlier.split()) > 5 else []
    return kept, pairs


def _last_sentence(text: str) -> tuple[str, str]:
    """What stands before a text's last sentence, and that sentence on one line."""
    *earlier, last = text.rsplit("\n\n", maxsplit=1)
    last = " ".join(last.split())
    ends = [match.end() for match in re.finditer(r"[.!?]\s+(?=[A-Z`])", last)]
    start = ends[-1] if ends else 0
    return "\n\n".join([*earlier, last[:start].rstrip()]).strip(), last[start:]


def _code_pairs(sentence: str, block: Block) -> Iterator[Pair]:
    shell = is_command(block)
    said = commented_commands(block) if shell else []
    if said:
        yield from (Pair(vary(s), c, "comment-command") for s, c in said)
    elif shell:
        yield Pair(vary(sentence), commands(block), "sentence-command")
    elif COMMAND.match(block.text) and block.text.count("\n") < 3 and not block.name:
        yield Pair(vary(sentence), block.text, "sentence-command")
    else:
        suffix = "py" if block.name == "python" or ">>>" in block.text else ""
        yield Pair(vary(sentence, suffix), block.text, "sentence-code")


def _give_items(
    section: Section, blocks: list[Block]
) -> tuple[list[Block], list[Pair]]:
    kept: list[Block] = []
    pairs: list[Pair] = []
    for block in blocks:
        if block.kind != "item":
            kept.append(block)
            continue
        name, said = plain(block.name), clean(block.text)
        sentence, rest = first_sentence(said)
        if len(name.split()) > 8 or name.endswith(("\\", ".")):
            continue
        if len(rest.split()) >= 8:
            pairs.append(Pair(vary(sentence), f"{name}\n{rest}", "definition"))
        elif share("item" + name) < 0.4 and re.match(r"\w+ \w+ \w", name):
            pairs.append(Pair(name, said, "definition-term"))
        elif name.startswith("-"):
            pairs.append(
                Pair(
                    vary(sentence),
                    f"{name} option of {section.title}",
                    "option-command",
                )
            )
    return kept, pairs


def body(section: Section) -> str:
    """A section's blocks as one text."""
    shown = []
    for block in section.blocks:
        text = clean(block.text) if block.kind == "text" else block.text
        shown.append(f"{block.name}\n{text}" if block.kind == "item" else text)
    return "\n\n".join(s for s in shown if s.strip())


def _give_words(section: Section) -> Iterator[Pair]:
    """A section's heading or its first sentence, with the text that is left."""
    text, title = body(section), section.title
    draw = share(f"{section.page}{title}{text[:80]}")
    sentence, rest = first_sentence(text)
    asks = bool(QUESTION.match(title)) or title.endswith("?")
    named = f"{section.page}: {title}" if section.page not in ("", title) else title
    if asks and len(title.split()) > 3:
        yield Pair(title, text, "question")
    elif draw < 0.45 and len(rest.split()) > 30:
        document = f"{title}\n\n{rest}" if draw < 0.3 else rest
        yield Pair(vary(sentence), document, "first-sentence")
    elif len(title.split()) > 2 or len(named.split()) > 2:
        whole = len(title.split()) < 3 or draw > 0.8
        document = f"{section.page}\n\n{text}" if draw > 0.9 and not whole else text
        yield Pair(vary(named if whole else title), document, "heading")


def reference_pairs(pages: list[Section]) -> tuple[list[Pair], list[Section]]:
    """Sentences that point to another section, with that section; the other sections.

    A section pointed to is given away as a whole, so it is not among the others;
    a sentence used as a query leaves the section in which it stands.
    """
    targets = {label: s for s in pages for label in s.labels}
    found: list[tuple[str, Section]] = []
    for section in pages:
        for index, block in enumerate(section.blocks):
            if block.kind == "text":
                text, said = _references(block.text, section, targets)
                section.blocks[index] = replace(block, text=text)
                found += said
    pairs, taken = [], set()
    for query, target in found:
        shown = body(target)
        if len(shown.split()) >= 15:
            pairs.append(Pair(query, f"{target.title}\n\n{shown}", "reference"))
            taken.add(id(target))
    return pairs, [s for s in pages if id(s) not in taken]


def _references(
    text: str, section: Section, targets: dict[str, Section]
) -> tuple[str, list[tuple[str, Section]]]:
    """A text without its sentences that point to one section, and those sentences."""
    kept: list[str] = []
    found: list[tuple[str, Section]] = []
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
        links = [a or b for a, b in REFERENCE.findall(sentence)]
        links += LINK.findall(sentence)
        target = targets.get(_address(links[0], section)) if len(links) == 1 else None
        query = _pointing(sentence, target.title) if target else ""
        if target is None or target is section or len(query.split()) < 6:
            kept.append(sentence)
        else:
            found.append((query, target))
    return " ".join(kept) if found else text, found


def _pointing(sentence: str, title: str) -> str:
    """A pointing sentence as a query; the target's title in place of a bare label."""
    named = REFERENCE.sub(lambda m: title if m[2] else m[0], sentence)
    return plain(clean(re.sub(r"^\s*[-*+]\s+", "", named)))


def _address(link: str, section: Section) -> str:
    """A link as the label of a section: a name, or a path from the page's folder."""
    if "/" not in link and "." not in link and "#" not in link:
        return link.strip().lower()
    own = section.labels[0].partition("#")[0] if section.labels else ""
    if link.startswith("#"):
        return own + link
    folder = own.rpartition("/")[0].split("/")
    parts = folder if folder != [""] else []
    for part in link.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in (".", ""):
            parts = [*parts, part]
    return "/".join(parts)
