"""What our commands understand beyond Typer: several values after one option.

`--collections a b` becomes `--collections a --collections b` before parsing, for
commands that take no positional arguments. An option given with its opposite
(`--resume --fresh`) is refused instead of the last one winning. Help names values as a
person would, not as Python's types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption

from ..errors import UsageError

_TYPE = re.compile(r"(?m)^(  \S.*?) <(list\[\w+\]|int range|float range|str|path)>")
_SHOWN = {"int range": "N", "float range": "N", "str": "TEXT", "path": "PATH"}


class ManyValuesCommand(TyperCommand):
    """A command whose list options take one or more values each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse after spreading list options; see the module."""
        options = [param for param in self.params if isinstance(param, TyperOption)]
        refuse_opposites(args, options)
        if not any(isinstance(param, TyperArgument) for param in self.params):
            lists = {
                name for option in options if option.multiple for name in option.opts
            }
            args = list(spread(args, lists))
        return super().parse_args(ctx, args)

    def get_help(self, ctx: Any) -> str:
        """Return the help; see `plain_types`."""
        return plain_types(super().get_help(ctx))


def spread(arguments: Sequence[str], lists: Iterable[str]) -> Iterator[str]:
    """Yield the arguments with the option repeated before each of its values."""
    names = frozenset(lists)
    current: str | None = None  # the list option whose values are being read
    seen = 0
    for position, argument in enumerate(arguments):
        if argument == "--":
            yield from arguments[position:]
            return
        if argument.startswith("-") and len(argument) > 1:
            option, equals, _ = argument.partition("=")
            current = option if option in names else None
            seen = 1 if equals else 0
            yield argument
        elif current is not None and seen:
            yield current
            yield argument
        else:
            seen += 1
            yield argument


def plain_types(help_text: str) -> str:
    """Return a command's help without the names of Python's types.

    `--port <int range>` becomes `--port N`; an argument's own name says enough. Columns
    keep their places.
    """

    def name(found: re.Match[str]) -> str:
        first, kind = found.groups()
        shown = _SHOWN.get(kind, "") if first.lstrip().startswith("-") else ""
        return f"{first} {shown}".ljust(len(found.group()))

    lines = _TYPE.sub(name, help_text).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def refuse_opposites(arguments: Sequence[str], options: Iterable[TyperOption]) -> None:
    """Return unless an option and its opposite were both given.

    Raises:
        UsageError: they were.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = set(arguments[:end])
    for option in options:
        for yes in given.intersection(option.opts):
            for no in given.intersection(option.secondary_opts):
                raise UsageError(
                    f"{yes} and {no} exclude each other.", cure="Give one of them."
                )
