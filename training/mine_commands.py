"""Shell commands in blocks of code."""

from __future__ import annotations

import re

from training.mine_pages import Block, rest_blocks
from training.mine_words import word_list

SHELL = word_list("shell")
PROMPT = re.compile(r"^\s*(?:\(\w+\)\s*)?(?:\$|%|>|#|root@[\w-]+:?[~/]?[#$])\s+(?=\S)")
COMMAND = re.compile(
    r"^(?:sudo\s+)?[a-z][\w.-]*(?:/[\w.-]+)?(?:\s+(?:--?\w|[\w./$\"'{<*@:=\[-])\S*)+"
)


def is_command(block: Block) -> bool:
    """Whether a code block holds shell commands."""
    lines = [line for line in block.text.split("\n") if line.strip()]
    if not lines or len(lines) > 25:
        return False
    prompted = any(re.match(r"^\s*\$\s+\S", line) for line in lines)
    return block.name.lower() in SHELL or prompted


def commands(block: Block) -> str:
    """The commands of a block without prompts and without what they print."""
    lines = [line for line in block.text.split("\n") if line.strip()]
    prompted = [line for line in lines if PROMPT.match(line)]
    chosen = lines
    if any(re.match(r"^\s*\$\s", line) for line in lines):
        chosen = [line for line in prompted if re.match(r"^\s*\$\s", line)]
    shown = [re.sub(r"^\s*[$%>]\s+", "", line) for line in chosen]
    return "\n".join(line for line in shown if not line.startswith("#"))


def commented_commands(block: Block) -> list[tuple[str, str]]:
    """Comments of a shell block with the commands right below each."""
    found: list[tuple[str, str]] = []
    comment = ""
    for line in block.text.split("\n"):
        if match := re.match(r"^\s*#\s+(\S.*)$", line):
            comment = match[1]
        elif line.strip() and comment:
            command = re.sub(r"^\s*[$%>]\s+", "", line)
            if len(command.split()) >= 2:
                found.append((comment, command))
            comment = ""
    return found


def command_blocks(docstring: str) -> list[str]:
    """The shell commands shown in a docstring."""
    blocks = rest_blocks(docstring.split("\n"))
    return [commands(b) for b in blocks if b.kind == "code" and is_command(b)]
