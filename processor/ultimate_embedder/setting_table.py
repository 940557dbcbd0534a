"""Every setting once: its key, how its text is read, and its environment variable.

The key is the name in a config file, the name of the command's parameter and, with
hyphens, the option. A parser takes text or an already typed value and raises
`ValueError` with the allowed values as its message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .addresses import address_parts, shown_address
from .config import ALL_EXPORTS, GIB
from .errors import UsageError
from .models.catalogue import PROFILES
from .retrieval.fusion import FusionConfig

Parser = Callable[[object], object]

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_CUDA = re.compile(r"cuda(:\d+)?")


def boolean(value: object) -> bool:
    """Return a flag from a flag or from one of the usual words."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"allowed: {', '.join(_TRUE + _FALSE)}")


def hub_offline(value: object) -> bool:
    """Return HF_HUB_OFFLINE as the Hugging Face library understands it."""
    return str(value).strip().upper() in {"1", "ON", "YES", "TRUE"}


def choice(*allowed: str) -> Parser:
    """Return a parser for one of `allowed`."""

    def parse(value: object) -> object:
        if value not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return value

    return parse


def names(value: object) -> tuple[str, ...]:
    """Return names from a list, or from text with commas between."""
    parts: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("a list of names is needed")
    pieces = [piece.strip() for part in parts for piece in part.split(",")]
    found = tuple(dict.fromkeys(piece for piece in pieces if piece))
    if not found:
        raise ValueError("at least one name is needed")
    return found


def folder_names(value: object) -> tuple[str, ...]:
    """Return folder names as they stand: blanks and commas belong to a name."""
    parts: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise ValueError("a list of folder names is needed")
    return tuple(dict.fromkeys(parts))


def exports(value: object) -> tuple[str, ...]:
    """Return the wanted vector files, in their fixed order."""
    asked = names(value)
    unknown = [name for name in asked if name not in ALL_EXPORTS]
    if unknown:
        raise ValueError(f"allowed: {', '.join(ALL_EXPORTS)}")
    return tuple(name for name in ALL_EXPORTS if name in asked)


def integer(minimum: int, maximum: int | None = None) -> Parser:
    """Return a parser for whole numbers from `minimum` to `maximum`."""
    bound = f"up to {maximum}" if maximum is not None else "or more"

    def parse(value: object) -> object:
        message = f"allowed: a whole number, {minimum} {bound}"
        if isinstance(value, bool | float):
            raise ValueError(message)
        try:
            number = int(str(value))
        except ValueError:
            raise ValueError(message) from None
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError(message)
        return number

    return parse


def positive_number(value: object) -> float:
    """Return a finite number above zero."""
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError("allowed: a number above 0")
    return number


def seconds(value: object) -> float:
    """Return a finite number of seconds, 0 or more."""
    try:
        return 0.0 if float(str(value)) == 0 else positive_number(value)
    except ValueError:
        raise ValueError("allowed: a number of seconds, 0 or more") from None


def gibibytes(value: object) -> int:
    """Return bytes from a figure in GiB."""
    return int(positive_number(value) * GIB)


def device(value: object) -> str:
    """Return `auto`, `cpu`, `cuda` or a list such as `cuda:0,cuda:1`."""
    parts = [part.strip() for part in str(value).split(",")]
    single = len(parts) == 1 and parts[0] in {"auto", "cpu", "cuda"}
    several = all(_CUDA.fullmatch(part) and ":" in part for part in parts)
    if not single and not several:
        raise ValueError("allowed: auto, cpu, cuda, or devices such as cuda:0,cuda:1")
    return ",".join(dict.fromkeys(parts))


def one_device(value: object) -> str:
    """Return `cpu`, `cuda` or `cuda:N`."""
    name = str(value).strip()
    if name != "cpu" and not _CUDA.fullmatch(name):
        raise ValueError("allowed: cpu, cuda, cuda:N")
    return name


def fusion(value: object) -> FusionConfig | None:
    """Return how the dense ranking is joined with BM25's; None for `auto`."""
    if value == "auto":
        return None
    try:
        config = FusionConfig.parse(str(value))
        if config.weights:
            config.weights_for(2)
    except UsageError as error:
        raise ValueError(
            "allowed: auto, or a method such as rrf(k=60) or "
            "sum(scale=zscore, weights=0.7:0.3), with weights for the dense model and "
            f"BM25. {error.message.rstrip('.')}"
        ) from None
    return config


def path(value: object) -> Path:
    """Return a path; `~` is the home folder."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("a path is needed")
    return Path(value).expanduser()


def text(value: object) -> str:
    """Return text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("text is needed")
    return value.strip()


def url(value: object) -> str:
    """Return an http or https address."""
    address = text(value)
    parts = address_parts(address)
    if not re.match(r"https?://[^/\s]+", address) or not (parts and parts.hostname):
        raise ValueError("allowed: an address such as http://localhost:4317")
    return address


def show(value: object) -> str:
    """Return a value as a person would type it; `-` where there is none."""
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def show_address(value: str | None) -> str:
    """Return an address without the parts that may hold a password."""
    return "-" if value is None else shown_address(value)


def show_gibibytes(value: int) -> str:
    """Return bytes in GiB: `12 GiB`."""
    return f"{value / GIB:g} GiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`variable` is read from `.env` and the environment, with `parse_variable`.

    `narrower` is a variable for the same that wins over `variable` in its layer.
    `show` gives a value as a person would type it, with its unit.
    """

    key: str
    parse: Parser
    variable: str | None = None
    narrower: str | None = None
    parse_variable: Parser | None = None
    show: Callable[[Any], str] = show


def _table(settings: Iterable[Setting]) -> Mapping[str, Setting]:
    return MappingProxyType({setting.key: setting for setting in settings})


SETTINGS: Mapping[str, Setting] = _table(
    (
        Setting(key="chunked_dir", parse=path),
        Setting(key="output_dir", parse=path),
        Setting(key="collections", parse=folder_names),
        Setting(key="profile", parse=choice(*PROFILES), variable="EMBEDDER_PROFILE"),
        Setting(key="ensemble_models", parse=names),
        Setting(key="sparse_models", parse=names, variable="EMBEDDER_SPARSE_MODELS"),
        Setting(key="rerank_model", parse=text),
        Setting(key="rerank_fallback", parse=text),
        Setting(key="trust_remote_code", parse=names),
        Setting(key="models_lock", parse=path, variable="EMBEDDER_MODELS_LOCK"),
        Setting(key="enable_rerank", parse=boolean, variable="EMBEDDER_ENABLE_RERANK"),
        Setting(key="enable_sparse", parse=boolean, variable="EMBEDDER_ENABLE_SPARSE"),
        Setting(
            key="rerank_batch_cap",
            parse=integer(1),
            variable="EMBEDDER_RERANK_BATCH_CAP",
        ),
        Setting(key="rerank_timeout", parse=positive_number),
        Setting(key="queries", parse=path),
        Setting(key="probes", parse=boolean),
        Setting(key="device", parse=device),
        Setting(key="sparse_device", parse=one_device),
        Setting(key="gpu_memory_cap", parse=gibibytes, show=show_gibibytes),
        Setting(key="gpu_wait", parse=seconds),
        Setting(key="workers", parse=integer(0)),
        Setting(key="jsonl_layout", parse=choice("qdrant", "simple")),
        Setting(key="exports", parse=exports),
        Setting(
            key="bm25_profile",
            parse=choice("qdrant-word", "fastembed", "code"),
            variable="EMBEDDER_BM25_PROFILE",
        ),
        Setting(
            key="long_texts",
            parse=choice("windows", "cut"),
            variable="EMBEDDER_LONG_TEXTS",
        ),
        Setting(key="fusion", parse=fusion, variable="EMBEDDER_FUSION"),
        Setting(key="baseline", parse=path),
        Setting(key="resume", parse=boolean),
        Setting(
            key="offline",
            parse=boolean,
            variable="HF_HUB_OFFLINE",
            parse_variable=hub_offline,
        ),
        Setting(key="redact_queries", parse=boolean),
        Setting(key="skip_failed_models", parse=boolean),
        Setting(key="seed", parse=integer(0)),
        Setting(key="log_format", parse=choice("rich", "plain", "json")),
        Setting(key="log_level", parse=choice("debug", "info", "warning", "error")),
        Setting(key="metrics_port", parse=integer(1, 65535)),
        Setting(key="metrics_textfile", parse=path),
        Setting(
            key="otlp_endpoint",
            parse=url,
            variable="OTEL_EXPORTER_OTLP_ENDPOINT",
            narrower="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            show=show_address,
        ),
        Setting(
            key="otlp_protocol",
            parse=choice("grpc", "http/protobuf"),
            variable="OTEL_EXPORTER_OTLP_PROTOCOL",
            narrower="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ),
        Setting(key="otlp_file", parse=path, variable="EMBEDDER_OTLP_FILE"),
    )
)
