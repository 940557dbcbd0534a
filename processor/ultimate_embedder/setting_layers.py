"""The layers above the defaults, read: the config file, `.env`, variables, options.

Each gives decisions by setting, with the place that a message names.
"""

from __future__ import annotations

import difflib
import io
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from .addresses import without_login
from .errors import UsageError
from .setting_table import SETTINGS, Setting

CONFIG_FILE = "ultimate-embedder.toml"
KAGGLE_VARIABLE = "EMBEDDER_KAGGLE_ROOT"
"""Names another folder with `input` and `working`: to rehearse a notebook's run."""

DEFAULT_LAYER = "default"
FILE_LAYER = "config file"
DOTENV_LAYER = ".env"
ENVIRONMENT_LAYER = "environment"
COMMAND_LAYER = "command line"

_OWN_PREFIX = "EMBEDDER_"
_READ_BY_LIBRARIES = re.compile(
    r"HF_(?!HUB_OFFLINE$)|CUDA_|OTEL_(?!EXPORTER_OTLP_(TRACES_)?(ENDPOINT|PROTOCOL)$)"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """A setting's value with the layer and the place that decided it."""

    value: Any
    layer: str
    source: str


def file_layer(here: Path, config_file: Path | None) -> dict[str, Decision]:
    """Return what the config file decides: the one named, or the folder's own if any.

    Raises:
        UsageError: it cannot be read, or names what is no setting or no value of one.
    """
    path = config_file if config_file is not None else here / CONFIG_FILE
    if config_file is None and not path.is_file():
        return {}
    try:
        content = path.read_text(encoding="utf-8")
        table = tomllib.loads(content)
    except OSError as error:
        raise UsageError(
            f"Cannot read the config file {path}: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The config file {path} is not in UTF-8.") from error
    except ValueError as error:
        raise UsageError(
            f"Cannot read the config file {path}: {error}.", cure=_toml_cure(error)
        ) from error
    decisions = {}
    for key, value in table.items():
        place = f"{path.name}:{_toml_line(content, key)}"
        if key not in SETTINGS:
            raise UsageError(
                f"{place}: there is no setting '{key}'.", cure=_near(key, SETTINGS)
            )
        parsed = _parse(SETTINGS[key].parse, value, f"{place}: {key}")
        if isinstance(parsed, Path):
            parsed = path.parent / parsed
        decisions[key] = Decision(parsed, FILE_LAYER, place)
    return decisions


def _toml_cure(error: ValueError) -> str | None:
    """Return what a bare word for a value most often lacks."""
    bare = str(error).startswith("Invalid value")
    return 'Strings need quotes: profile = "embedded".' if bare else None


def _toml_line(content: str, key: str) -> int:
    name = rf"[\[\"']*{re.escape(key)}[\"']?"
    found = re.search(rf"(?m)^[ \t]*{name}[ \t]*[=.\]]", content)
    return content[: found.start()].count("\n") + 1 if found else 1


def dotenv_layer(path: Path) -> tuple[dict[str, Decision], list[str]]:
    """Return what `.env` decides, and notes on what in it has no effect.

    Raises:
        UsageError: it cannot be read, or a value is none of its setting.
    """
    if not path.is_file():
        return {}, []
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"Cannot read {path.name}: {why}.") from error
    except ValueError as error:
        raise UsageError(f"Cannot read {path.name}: it is not in UTF-8.") from error
    lines = _dotenv_lines(content)
    values = dotenv_values(stream=io.StringIO(content))
    variables = {key: value for key, value in values.items() if value is not None}
    notes = own_but_unknown(variables, ".env")
    notes += [
        f".env:{lines[name]}: {name} is read by a library, which looks in the "
        "environment only: export it."
        for name in variables
        if _READ_BY_LIBRARIES.match(name)
    ]
    return variable_layer(variables, DOTENV_LAYER, lines), notes


def _dotenv_lines(content: str) -> dict[str, int]:
    lines = {}
    for binding in parse_stream(io.StringIO(content)):
        original = binding.original.string
        blank = original[: len(original) - len(original.lstrip())].count("\n")
        line = binding.original.line + blank
        if binding.error:
            raise UsageError(
                f".env:{line}: not of the form NAME=value: {original.strip()[:40]!r}."
            )
        if binding.key is not None:
            lines[binding.key] = line
    return lines


def variable_layer(
    variables: Mapping[str, str], layer: str, lines: Mapping[str, int]
) -> dict[str, Decision]:
    """Return what variables decide; `lines` tells where in `.env` each stands.

    Raises:
        UsageError: a value is none of its setting.
    """
    decisions = {}
    for key, setting in SETTINGS.items():
        names = (name for name in (setting.narrower, setting.variable) if name)
        # An empty variable counts as one that is not set.
        name = next((one for one in names if variables.get(one, "").strip()), None)
        if name is None:
            continue
        value = variables[name]
        source = f".env:{lines[name]}" if name in lines else name
        place = f"{source}: {name}" if name in lines else name
        parsed = _parse(setting.parse_variable or setting.parse, value, place)
        decisions[key] = Decision(parsed, layer, source)
    return decisions


def command_layer(
    command_line: Mapping[str, tuple[object, str]],
) -> dict[str, Decision]:
    """Return what options decide: by setting a value and the option's name.

    Raises:
        UsageError: a value is none of its setting.
    """
    return {
        key: Decision(_parse(SETTINGS[key].parse, value, option), COMMAND_LAYER, option)
        for key, (value, option) in command_line.items()
    }


def _parse(parser: Any, value: object, place: str) -> object:
    try:
        return parser(value)
    except ValueError as error:
        several = value if isinstance(value, list) else [value]
        shown = ",".join(
            without_login(str(one)) if "://" in str(one) else str(one)
            for one in several
        )
        raise UsageError(f"{place} is '{shown}'; {error}.") from None


def own_but_unknown(variables: Mapping[str, str], place: str) -> list[str]:
    """Return notes on variables that look like ours and are not."""
    known = [setting.variable for setting in SETTINGS.values() if setting.variable]
    known.append(KAGGLE_VARIABLE)
    return [
        f"{name} in {place} is no setting and changes nothing. {_near(name, known)}"
        for name in sorted(variables)
        if name.startswith(_OWN_PREFIX) and name not in known
    ]


def _near(name: str, known: Mapping[str, Setting] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
