"""Structure of source code, through the single `tree-sitter-<language>` wheels.

Functions, classes and the like begin where their comments, attributes and decorators
begin. Classes, modules, namespaces and impl blocks are entered; functions are not:
inside them blank lines and line ends are the places to cut. Code with errors in it is
parsed as far as it goes; the lines remain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import numpy as np
from tree_sitter import Language, Node, Parser

from .plain import lines
from .structure import CODE, Cut, Path, Structure

MAX_NESTING = 32


def _types(names: str) -> frozenset[str]:
    return frozenset(names.split())


_LEADING = _types("comment line_comment block_comment attribute_item decorator")
_WRAPPERS = _types(
    "decorated_definition export_statement template_declaration ambient_declaration "
    "expression_statement linkage_specification preproc_ifdef preproc_if preproc_else "
    "declaration_list lexical_declaration variable_declaration"
)
_CLOSES = re.compile(r"\s*(?:[\])}]|end\b|else\b|elif\b|except\b|finally\b|case\b)")


@dataclass(frozen=True, slots=True)
class Grammar:
    """Which wheel parses a language, and its node types that define a symbol."""

    module: str
    definitions: frozenset[str]
    function: str = "language"


def _grammar(module: str, definitions: str, function: str = "language") -> Grammar:
    return Grammar(module, _types(definitions), function)


_SCRIPT = (
    "function_declaration generator_function_declaration class_declaration "
    "method_definition variable_declarator"
)
_TYPESCRIPT = _SCRIPT + (
    " abstract_class_declaration interface_declaration enum_declaration "
    "type_alias_declaration internal_module module function_signature"
)
_C = "function_definition struct_specifier enum_specifier union_specifier"

GRAMMARS = {
    "python": _grammar("tree_sitter_python", "function_definition class_definition"),
    "rust": _grammar(
        "tree_sitter_rust",
        "function_item struct_item enum_item trait_item impl_item mod_item union_item "
        "macro_definition function_signature_item",
    ),
    "go": _grammar(
        "tree_sitter_go", "function_declaration method_declaration type_declaration"
    ),
    "java": _grammar(
        "tree_sitter_java",
        "class_declaration interface_declaration enum_declaration record_declaration "
        "annotation_type_declaration method_declaration constructor_declaration",
    ),
    "c": _grammar("tree_sitter_c", _C + " type_definition"),
    "cpp": _grammar("tree_sitter_cpp", _C + " class_specifier namespace_definition"),
    "javascript": _grammar("tree_sitter_javascript", _SCRIPT),
    "typescript": _grammar(
        "tree_sitter_typescript", _TYPESCRIPT, "language_typescript"
    ),
    "tsx": _grammar("tree_sitter_typescript", _TYPESCRIPT, "language_tsx"),
}
_FUNCTIONS = frozenset({"arrow_function", "function_expression", "class"})


@cache
def _parser(language: str) -> Parser:
    grammar = GRAMMARS[language]
    load = getattr(import_module(grammar.module), grammar.function)
    return Parser(Language(load()))


def find(text: str, language: str) -> Structure:
    """Return the structure of code in `language`, a key of `GRAMMARS`."""
    data = text.encode("utf-8")
    found = Structure(blocks=[(0, CODE)])
    tree = _parser(language).parse(data)
    symbols = sorted(
        _Walk(data, GRAMMARS[language].definitions).symbols(tree.root_node),
        key=lambda symbol: symbol.start,
    )
    starts = _characters(data, [symbol.start for symbol in symbols])
    first_lines = {}
    for start, symbol in zip(starts, symbols, strict=True):
        if symbol.cut is not None:
            first_lines[start] = symbol.cut
        found.enter(start, symbol.path)
    _cut_lines(text, first_lines, found)
    return found


def _characters(data: bytes, offsets: list[int]) -> list[int]:
    """Return character positions of byte offsets in UTF-8."""
    if data.isascii():
        return offsets
    leads = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    before = np.concatenate(([0], np.cumsum(leads)))
    return [int(position) for position in before[offsets]]


@dataclass(frozen=True, slots=True)
class _Symbol:
    """A definition that begins at byte `start`; without `cut`, one that has ended."""

    start: int
    path: Path
    cut: Cut | None


class _Walk:
    def __init__(self, data: bytes, definitions: frozenset[str]) -> None:
        self._data = data
        self._definitions = definitions

    def symbols(
        self, parent: Node, path: Path = (), depth: int = 0
    ) -> Iterator[_Symbol]:
        """Yield what is defined in `parent`, in the order of the text."""
        lead: Node | None = None  # first of the comments right above the next node
        above: Node | None = None
        for node in parent.named_children:
            if above is not None and node.start_point.row > above.end_point.row + 1:
                lead = None
            if node.type in _LEADING:
                lead, above = lead or node, node
                continue
            yield from self._define(node, lead or node, path, depth)
            lead = above = None

    def _define(
        self, node: Node, first: Node, path: Path, depth: int
    ) -> Iterator[_Symbol]:
        target = self._definition(node)
        if target is None or depth > MAX_NESTING:
            if node.type in _WRAPPERS and depth <= MAX_NESTING:
                yield from self.symbols(node, path, depth + 1)
            return
        inner = (*path, self._name(target))
        cut = Cut.SECTION if not path else Cut.SUBSECTION
        yield _Symbol(self._line_start(first.start_byte), inner, cut)
        body = target.child_by_field_name("body")
        if body is not None and not self._is_function(target):
            yield from self.symbols(body, inner, depth + 1)
        yield _Symbol(node.end_byte, path, None)

    def _definition(self, node: Node) -> Node | None:
        """Return the definition that `node` is or wraps alone."""
        for _ in range(MAX_NESTING):
            if node.type in self._definitions:
                return node if self._counts(node) else None
            if node.type not in _WRAPPERS:
                return None
            inner = [
                child
                for child in node.named_children
                if child.type in self._definitions or child.type in _WRAPPERS
            ]
            if len(inner) != 1 or node.type.startswith("preproc"):
                return None
            node = inner[0]
        return None

    def _counts(self, node: Node) -> bool:
        """Is a variable a function or class, and a C struct more than a mention?"""
        if node.type == "variable_declarator":
            value = node.child_by_field_name("value")
            return value is not None and value.type in _FUNCTIONS
        if node.type.endswith("_specifier"):
            return node.child_by_field_name("body") is not None
        return True

    def _is_function(self, node: Node) -> bool:
        return "function" in node.type or "method" in node.type

    def _name(self, node: Node) -> str:
        if node.type == "impl_item":
            return self._text(node.child_by_field_name("type"))
        if node.type == "type_declaration" and node.named_children:
            node = node.named_children[0]
        name = node.child_by_field_name("name")
        declarator = node.child_by_field_name("declarator")
        while name is None and declarator is not None:
            inner = declarator.child_by_field_name("declarator")
            name = declarator if inner is None else None
            declarator = inner
        receiver = node.child_by_field_name("receiver")
        owner = self._text(receiver).strip("()").split(" ")[-1].lstrip("*")
        return f"{owner}.{self._text(name)}" if receiver else self._text(name)

    def _text(self, node: Node | None) -> str:
        if node is None:
            return ""
        return self._data[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def _line_start(self, offset: int) -> int:
        """Return the start of the line, if only blanks stand before `offset`."""
        start = self._data.rfind(b"\n", 0, offset) + 1
        return offset if self._data[start:offset].strip() else start


def _cut_lines(text: str, symbols: dict[int, Cut], found: Structure) -> None:
    """Add a cut for each line: of symbols, after blank lines, by indentation."""
    blank, indent = True, 0
    for start, line in lines(text):
        bare = line.lstrip()
        if not bare:
            blank = True
            continue
        deeper, indent = len(line) - len(bare) > indent, len(line) - len(bare)
        if start in symbols:
            kind = symbols.pop(start)
        elif deeper or _CLOSES.match(line):
            kind = Cut.BOUND
        elif blank:
            kind = Cut.PART if indent else Cut.BLOCK
        else:
            kind = Cut.LINE
        found.cut(start, kind)
        blank = False
    # Symbols that begin within a line, as in minified code.
    found.cuts = sorted([*found.cuts, *symbols.items()])
