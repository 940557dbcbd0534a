"""Pages in reStructuredText and Markdown, read into sections and blocks."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from training.mine_queries import plain
from training.mine_words import word_list

RULE = re.compile(r"^([=\-~^\"'*+#.:_`<>])\1{2,}\s*$")
ATX = re.compile(r"^(#{1,5})\s+(.+?)\s*#*\s*$")
LABEL = re.compile(r"^\.\. _([^:`]+):\s*$")
DIRECTIVE = re.compile(r"^(\s*)\.\. ([\w:+-]+)::\s*(.*)$")
OPTION = re.compile(r"^:[\w-]+:")
CODE_DIRECTIVES = word_list("code_directives")
OPEN_DIRECTIVES = word_list("open_directives")
FENCE = re.compile(r"^\s*(```+|~~~+|:::+)\s*\{?\.?([\w+-]*)")


@dataclass(frozen=True)
class Block:
    """A run of text in a section: "text", "code" with its language, or "item"."""

    kind: str
    text: str
    name: str = ""


@dataclass
class Section:
    """A heading with what stands below it up to the next heading."""

    title: str
    page: str
    labels: list[str]
    lines: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


def sections(path: str, text: str) -> list[Section]:
    """The sections of a page, their blocks read."""
    markdown = path.lower().endswith((".md", ".ipynb"))
    found = _markdown(text, path) if markdown else _rest(text, path)
    page = next((s.title for s in found if s.title), "")
    for section in found:
        section.page = page
        section.blocks = list(
            _markdown_blocks(section.lines) if markdown else rest_blocks(section.lines)
        )
    return found


def _markdown(text: str, path: str) -> list[Section]:
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    found = [Section("", "", [path])]
    fenced = False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        match = None if fenced else ATX.match(line)
        if match:
            title = plain(re.sub(r"\{[^}]*\}\s*$", "", match[2]))
            slug = "-".join(re.findall(r"\w+", title.lower()))
            label = re.search(r"\{\s*#([\w-]+)", match[2])
            labels = [f"{path}#{label[1] if label else slug}"]
            if len(found) == 1:
                labels.append(path)
            found.append(Section(title, "", labels))
        else:
            found[-1].lines.append(line)
    return found


def _rest(text: str, path: str) -> list[Section]:
    lines = text.split("\n")
    found = [Section("", "", [])]
    labels: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        below = lines[index + 1] if index + 1 < len(lines) else ""
        if match := LABEL.match(line):
            labels.append(match[1].strip().lower())
        elif (
            RULE.match(line)
            and line == line.lstrip()
            and below.strip()
            and (index + 2 < len(lines) and RULE.match(lines[index + 2]))
        ):
            pass  # a line above a title; the title follows
        elif _is_title(line, below):
            if len(found) == 1:
                labels.append(path)
            found.append(Section(plain(line), "", labels))
            labels = []
            index += 1
        else:
            found[-1].lines.append(line)
            if line.strip():
                labels = []
        index += 1
    return found


def _is_title(line: str, below: str) -> bool:
    return (
        bool(line.strip())
        and not line.startswith((" ", "..", "+-", "|", "==="))
        and bool(RULE.match(below))
        and len(below.rstrip()) >= min(len(line.rstrip()), 60) - 1
        and not RULE.match(line)
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _indented(lines: list[str], start: int, deeper_than: int) -> tuple[list[str], int]:
    """The lines from `start` indented more than a depth, dedented; where they end."""
    index = start
    while index < len(lines) and (
        not lines[index].strip() or _indent(lines[index]) > deeper_than
    ):
        index += 1
    taken = textwrap.dedent("\n".join(lines[start:index])).strip("\n").split("\n")
    return taken, index


def rest_blocks(lines: list[str]) -> Iterator[Block]:
    index = 0
    while index < len(lines):
        line = lines[index]
        if not line.strip():
            index += 1
        elif match := DIRECTIVE.match(line):
            content, index = _indented(lines, index + 1, len(match[1]))
            yield from _directive(match[2], match[3], content)
        elif line.lstrip().startswith((".. ", "..\t", "__ ", "+-", "+=", "|")) or (
            RULE.match(line.replace(" ", ""))
        ):
            _, index = _indented(lines, index + 1, _indent(line))
        else:
            index, blocks = _paragraph(lines, index)
            yield from blocks


def _directive(name: str, argument: str, content: list[str]) -> Iterator[Block]:
    body = [line for line in content if not OPTION.match(line)]
    if name in CODE_DIRECTIVES:
        yield Block("code", "\n".join(body).strip("\n"), argument)
    elif name in ("option", "confval", "setting", "django-admin"):
        yield Block("item", " ".join(body).strip(), argument)
    elif name in OPEN_DIRECTIVES:
        said = [] if name.startswith(("version", "deprecated")) else [argument]
        yield from rest_blocks([*said, *body])


def _paragraph(lines: list[str], start: int) -> tuple[int, list[Block]]:
    """A paragraph at `start` with the literal block or definition that it opens."""
    depth, index = _indent(lines[start]), start
    while (
        index < len(lines) and lines[index].strip() and _indent(lines[index]) == depth
    ):
        index += 1
    opened = index < len(lines) and _indent(lines[index]) > depth
    text = textwrap.dedent("\n".join(lines[start:index]))
    if text.lstrip().startswith((">>>", "$ ", "In [")):
        return index, [Block("code", text)]
    if text.endswith("::"):
        code, after = _indented(lines, index, depth)
        said = text[:-2].rstrip(": ") + ":"
        return after, [Block("text", said), Block("code", "\n".join(code))]
    if opened and lines[index].strip():
        body, after = _indented(lines, index, depth)
        is_item = index - start == 1 and not re.match(
            r"^\s*([-*+]|[\w#]{1,3}[.)])\s", text
        )
        if is_item and len(text) < 100:
            return after, [Block("item", "\n".join(body), text.strip())]
        joined = textwrap.dedent("\n".join([*text.split("\n"), *body]))
        return after, [Block("text", joined)]
    return max(index, start + 1), [Block("text", text)]


def _markdown_blocks(lines: list[str]) -> Iterator[Block]:
    index, held = 0, [""]
    while index < len(lines):
        line = lines[index]
        match = FENCE.match(line)
        if match and not match[1].startswith(":"):
            yield from _flush(held)
            held, start = [], index + 1
            index = start
            while index < len(lines) and not lines[index].strip().startswith(match[1]):
                index += 1
            code = textwrap.dedent("\n".join(lines[start:index]))
            yield Block("code", code, match[2])
        elif not line.strip():
            yield from _flush(held)
            held = []
        elif not line.lstrip().startswith(
            ("|", "!!!", "???", ":::", "<", "![", "{%", "///")
        ):
            held.append(line)
        index += 1
    yield from _flush(held)


def _flush(held: list[str]) -> Iterator[Block]:
    text = textwrap.dedent("\n".join(held)).strip("\n")
    if text.strip():
        yield Block("text", text)


def clean(text: str) -> str:
    """Prose without the marks of roles, links and emphasis; its lines are kept."""
    text = re.sub(r":[a-z:+-]+:`~?([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", text)
    text = re.sub(r"^\s*\.\. [\w:-]+::.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"`([^`<]+?)\s*<[^>`]*>`_{1,2}", r"\1", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"</?[a-z][^>]{0,80}>|\{[%#][^%#]*[%#]\}", "", text).strip()
