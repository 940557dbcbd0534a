"""Pairs from Python files: docstrings, comments, error messages, tests, parameters.

Every function gives at most one kind of document, drawn from a hash of its name
and text, so that no document hides another one's answer.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from training.mine_commands import command_blocks
from training.mine_docstrings import docstring_pairs, module_pairs
from training.mine_pairs import Pair, first_sentence, share, words
from training.mine_queries import plain, vary

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
COMMENT = re.compile(r"^(\s*)#\s?(?!!|\s*[-=#*]{3}|\s*-\*-|:)(.*)$")
CODE_IN_COMMENT = re.compile(
    r"[=(\[{;]\s*$|^\w+\s*=|^(if|for|def|return|import|from)\b.*:?$"
)
LEAST_LINES = 3
MOST_LINES = 70


@dataclass(frozen=True)
class Piece:
    """A definition in a file: its node, the file's lines, and its class if any."""

    node: Definition
    lines: list[str]
    owner: str
    path: str

    @property
    def key(self) -> str:
        return f"{self.path}:{self.owner}.{self.node.name}"

    @property
    def name(self) -> str:
        """The name with that of its class."""
        return f"{self.owner}.{self.node.name}" if self.owner else self.node.name

    @property
    def start(self) -> int:
        """The first line's index, decorators included."""
        decorators = [d.lineno for d in self.node.decorator_list]
        return min([self.node.lineno, *decorators]) - 1

    def code(self, without: set[int] = frozenset()) -> str:  # type: ignore[assignment]
        """The definition's lines, dedented, except those whose index is named."""
        end = self.node.end_lineno or self.node.lineno
        kept = [
            line
            for index, line in enumerate(self.lines[self.start : end], self.start)
            if index not in without
        ]
        return textwrap.dedent("\n".join(kept[:MOST_LINES]))


def _inside(
    node: ast.Module | ast.ClassDef, owner: str, lines: list[str], path: str
) -> Iterator[Piece]:
    for child in node.body:
        if isinstance(child, Definition):
            yield Piece(child, lines, owner, path)
        if isinstance(child, ast.ClassDef):
            yield from _inside(child, child.name, lines, path)


def python_pairs(path: str, text: str) -> Iterator[Pair]:
    """Every pair of one Python file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's own string escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    yield from module_pairs(ast.get_docstring(tree) or "")
    is_test = "test" in PurePosixPath(path).name or "/tests/" in f"/{path}"
    for piece in _inside(tree, "", text.split("\n"), path):
        if isinstance(piece.node, ast.ClassDef):
            yield from _class(piece)
        elif is_test:
            yield from _test(piece)
        else:
            yield from _function(piece)


def _docstring_lines(node: Definition) -> set[int]:
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return set()
    return set(range(first.lineno - 1, first.end_lineno or first.lineno))


def _with_rest(piece: Piece, rest: str) -> str:
    """The code with only the rest of its docstring in it."""
    gone = _docstring_lines(piece.node)
    head = "\n".join(
        piece.lines[piece.start : min(gone)],
    )
    end = piece.node.end_lineno or 0
    body = "\n".join(piece.lines[max(gone) + 1 : end][:MOST_LINES])
    quoted = textwrap.indent(f'"""{rest}\n"""', "    ")
    return "\n".join(
        [textwrap.dedent(head), quoted, textwrap.indent(textwrap.dedent(body), "    ")]
    )


def _prefixed(piece: Piece, code: str) -> str:
    """The code below the line of its class, for a third of the methods."""
    if piece.owner and share("owner" + piece.key) < 0.33:
        return f"class {piece.owner}:\n{textwrap.indent(code, '    ')}"
    return code


def _function(piece: Piece) -> Iterator[Pair]:
    docstring = ast.get_docstring(piece.node) or ""
    sentence, rest = first_sentence(docstring)
    draw = share(piece.key)
    if docstring and command_blocks(docstring) and draw < 0.7:
        for command in islice(command_blocks(docstring), 2):
            yield Pair(vary(sentence), command, "docstring-command")
        return
    if not docstring or draw < 0.1:
        yield from _error(piece) if draw < 0.06 or not docstring else _comments(piece)
        if docstring or draw >= 0.06:
            return
        yield from _comments(piece)
        return
    prose = 0.75 if "\nReferences\n" in rest or "\nNotes\n" in rest else 0.32
    if draw < prose and len(rest.split()) > 25:
        yield from docstring_pairs(piece.name, docstring)
    elif draw < 0.62 and len(rest.split()) > 5:
        code = _prefixed(piece, _with_rest(piece, rest))
        yield Pair(vary(sentence, "py"), code, "docstring-full")
    else:
        code = piece.code(_docstring_lines(piece.node))
        if len(code.split("\n")) >= LEAST_LINES:
            yield Pair(vary(sentence, "py"), _prefixed(piece, code), "docstring-code")


def _class(piece: Piece) -> Iterator[Pair]:
    docstring = ast.get_docstring(piece.node) or ""
    sentence, rest = first_sentence(docstring)
    if not sentence:
        return
    prose = 0.6 if "\nReferences\n" in rest or "\nNotes\n" in rest else 0.2
    if share(piece.key) < prose and len(rest.split()) > 40:
        yield from docstring_pairs(piece.name, docstring)
        return
    node = piece.node
    bases = ", ".join(ast.unparse(base) for base in getattr(node, "bases", []))
    head = f"class {node.name}({bases}):"
    members = [
        f"    def {child.name}({ast.unparse(child.args)[:200]}): ..."
        for child in node.body
        if isinstance(child, ast.FunctionDef)
    ]
    text = "\n".join([head, rest, *members[:25]])
    yield Pair(vary(sentence, "py"), text, "class-docstring")


def _test(piece: Piece) -> Iterator[Pair]:
    name = piece.node.name.removeprefix("test_").strip("_")
    if not piece.node.name.startswith("test") or name.count("_") < 2:
        return
    gone = _docstring_lines(piece.node)
    code = piece.code(gone).replace(piece.node.name, "test_it")
    if share(piece.key) < 0.5:
        yield Pair(name.replace("_", " "), code, "test-name")


def _error(piece: Piece) -> Iterator[Pair]:
    for node in ast.walk(piece.node):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        written = _message(node.exc)
        if written is None or len(words(written[0])) < 5:
            continue
        message, parts = written
        code = piece.code(_docstring_lines(piece.node))
        for part in parts:
            code = code.replace(part.strip("\n"), "...")
        yield Pair(plain(message), _prefixed(piece, code), "error-message")
        return


def _message(call: ast.Call) -> tuple[str, list[str]] | None:
    """An exception's message with its blanks filled in plainly, and its constants."""
    if not call.args:
        return None
    first = call.args[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return re.sub(r"%[sdr]|\{\w*\}", "value", first.value), _string_parts(
            first.value
        )
    if isinstance(first, ast.JoinedStr):
        shown, parts = "", []
        for value in first.values:
            if isinstance(value, ast.Constant):
                shown += str(value.value)
                parts += _string_parts(str(value.value))
            else:
                inner = value.value if isinstance(value, ast.FormattedValue) else value
                named = re.findall(r"[A-Za-z]\w+", ast.unparse(inner))
                shown += named[-1] if named else "value"
        return shown, parts
    return None


def _string_parts(text: str) -> list[str]:
    """The runs of a message long enough to be found in the source as they are."""
    pieces_ = re.split(r"[\"'\\\n]|\{\w*\}", text)
    return [p for p in pieces_ if len(p.split()) >= 2]


def _comments(piece: Piece) -> Iterator[Pair]:
    """Comment lines of a function, each with the lines that follow it."""
    end = piece.node.end_lineno or 0
    index = piece.start
    while index < end:
        match = COMMENT.match(piece.lines[index])
        if not match:
            index += 1
            continue
        comment, after = _comment_block(piece.lines, index, end)
        code = _following(piece.lines, after, end, len(match[1]))
        if len(code) >= LEAST_LINES and not CODE_IN_COMMENT.search(comment):
            document = textwrap.dedent("\n".join(code))
            yield Pair(vary(first_sentence(comment)[0]), document, "comment-code")
        index = after + len(code)


def _comment_block(lines: list[str], start: int, end: int) -> tuple[str, int]:
    said, index = [], start
    while index < end and (match := COMMENT.match(lines[index])):
        said.append(match[2])
        index += 1
    return " ".join(said), index


def _following(lines: list[str], start: int, end: int, indent: int) -> list[str]:
    """The code up to an empty line, another comment at its depth, or a dedent."""
    taken: list[str] = []
    for line in lines[start:end][:25]:
        depth = len(line) - len(line.lstrip())
        if (
            not line.strip()
            or depth < indent
            or (COMMENT.match(line) and depth <= indent)
        ):
            break
        taken.append(line)
    return taken
