"""Pairs from code in other languages, from shell scripts and from workflow files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import PurePosixPath

import yaml  # type: ignore[import-untyped]

from training.mine_pairs import Pair, first_sentence, share
from training.mine_queries import vary

SUFFIXES = (
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".hpp",
    ".rs",
    ".go",
    ".js",
    ".ts",
    ".tsx",
    ".java",
)
OPENING = re.compile(r"^\s*/\*\*?(?!/)")
LINE_COMMENT = re.compile(r"^(\s*)(///?|//!)\s?(.*)$")
TAG = re.compile(r"^\s*[@\\](param|return|returns|brief|throws|note|see|tparam)\b\s*")
GENERATED = re.compile(r"generated (by|from|with)|do not edit", re.IGNORECASE)
MOST_LINES = 60
LEAST_LINES = 3


def other_pairs(path: str, text: str) -> Iterator[Pair]:
    """Comments above definitions, each with the code below it."""
    if GENERATED.search(text[:600]):
        return
    lines = text.split("\n")
    index = 0
    while index < len(lines):
        said, after = _comment(lines, index)
        if not said:
            index = after
            continue
        code, end = _code(lines, after)
        if len(code) >= LEAST_LINES:
            yield from _pair(path, said, code)
            # What stands inside a definition is part of it, not a second document.
            index = end
        else:
            index = after


def _pair(path: str, said: list[str], code: list[str]) -> Iterator[Pair]:
    suffix = PurePosixPath(path).suffix[1:]
    joined = "\n".join(TAG.sub("", line, count=1) for line in said).strip()
    sentence, rest = first_sentence(joined)
    document = textwrap.dedent("\n".join(code))
    if rest and share(path + sentence) < 0.4:
        document = f"{textwrap.indent(rest, '// ')}\n{document}"
    yield Pair(vary(sentence, suffix), document, f"comment-{suffix}")


def _comment(lines: list[str], start: int) -> tuple[list[str], int]:
    """The words of the comment that starts here, and the line after it."""
    if OPENING.match(lines[start]):
        said, index = [], start
        while index < len(lines):
            line = re.sub(r"^\s*/?\*+!?/?\s?|\*+/\s*$", "", lines[index])
            said.append(line)
            index += 1
            if "*/" in lines[index - 1]:
                break
        return said, index
    said, index = [], start
    while index < len(lines) and (match := LINE_COMMENT.match(lines[index])):
        said.append(match[3])
        index += 1
    return said, max(index, start + 1)


def _code(lines: list[str], start: int) -> tuple[list[str], int]:
    """The definition at `start`: up to the brace that closes it, or an empty line."""
    taken: list[str] = []
    depth, opened = 0, False
    for index in range(start, min(start + MOST_LINES, len(lines))):
        line = lines[index]
        if not opened and (not line.strip() or LINE_COMMENT.match(line)):
            break
        taken.append(line)
        depth += line.count("{") - line.count("}")
        opened = opened or "{" in line
        if (opened and depth <= 0) or depth < 0:
            break
    return taken, start + max(len(taken), 1)


def shell_pairs(text: str) -> Iterator[Pair]:
    """Comment lines of a shell script with the commands below each."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if line.strip()]
        said = []
        while lines and re.match(r"^\s*#(?!!)", lines[0]):
            said.append(lines.pop(0).lstrip("# ").strip())
        if said and 1 <= len(lines) <= 15:
            sentence = first_sentence(" ".join(said))[0]
            code = textwrap.dedent("\n".join(lines))
            yield Pair(vary(sentence), code, "comment-command")


def workflow_pairs(text: str) -> Iterator[Pair]:
    """The named steps of a workflow file with the commands each runs."""
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return
    jobs = read.get("jobs") if isinstance(read, dict) else None
    for job in jobs.values() if isinstance(jobs, dict) else ():
        steps = job.get("steps") if isinstance(job, dict) else None
        for step in steps or ():
            if isinstance(step, dict) and step.get("name") and step.get("run"):
                yield Pair(vary(str(step["name"])), str(step["run"]), "step-command")
