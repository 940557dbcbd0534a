"""The options of `embed` that are settings, as data, and how Typer gets them.

Values stay text here: the settings parse them, so that an option, a variable and a
line of the config file are judged by one rule and answered in one way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import typer

from ..models.catalogue import PROFILES
from ..setting_table import SETTINGS

Given = dict[str, tuple[object, str]]
Kind = Literal["text", "list", "flag", "switch"]


@dataclass(frozen=True, slots=True)
class SettingOption:
    """One option: `kind` list takes several values, switch has an opposite."""

    key: str
    help: str
    metavar: str = ""
    default: str = ""
    kind: Kind = "text"
    names: str = ""  # where they do not follow from the key; yes/no of a switch
    short: str = ""  # a second name, shown first

    @property
    def declaration(self) -> str:
        """The option as Typer takes it: `--name` or `--yes/--no`."""
        return self.names or "--" + self.key.replace("_", "-")

    def given_as(self, value: object) -> str:
        """Return the option that was typed for `value`."""
        return self.declaration.split("/")[-1 if value is False else 0]

    def with_default(self, value: object) -> SettingOption:
        """Return the option with `value` as the default that its help tells."""
        switch = "enabled" if value else "disabled"
        shown = switch if self.kind == "switch" else SETTINGS[self.key].show(value)
        return replace(self, default=shown)

    def with_name(self, name: str) -> SettingOption:
        """Return the option with a second name, shown before its own."""
        return replace(self, short=name)

    def parameter(self) -> inspect.Parameter:
        """Return the parameter from which Typer makes this option."""
        kinds: dict[Kind, Any] = {"text": str | None, "list": list[str] | None}
        return inspect.Parameter(
            self.key,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=kinds.get(self.kind, bool | None),
            default=typer.Option(
                None,
                *filter(None, (self.short, self.declaration)),
                metavar=self.metavar or None,
                help=self._sentences(),
                show_default=False,
            ),
        )

    def _sentences(self) -> str:
        variable = SETTINGS[self.key].variable
        default = f"Default: {self.default}." if self.default else ""
        return " ".join(
            part
            for part in (
                self.help,
                default,
                f"Variable: {variable}." if variable else "",
            )
            if part
        )


_INPUT_OUTPUT = (
    SettingOption(
        "chunked_dir",
        "Folder whose first-level folders are collections of chunk files.",
        "DIR",
        "Chunked; on Kaggle /kaggle/input",
    ),
    SettingOption(
        "output_dir",
        "Where the bundles go, a folder for each collection.",
        "DIR",
        "Embeddings; on Kaggle /kaggle/working",
    ),
    SettingOption(
        "collections",
        "Only these collections.",
        "NAME...",
        "all that are found",
        "list",
    ),
    SettingOption(
        "exports",
        "Vector files to write.",
        "npy,jsonl,faiss",
        "all three",
        "list",
    ),
    SettingOption(
        "jsonl_layout",
        "Points with named vectors, or one plain embedding a line.",
        "qdrant|simple",
        "qdrant",
    ),
    SettingOption(
        "baseline",
        "Earlier bundles to compare the dense vectors with.",
        "DIR",
        "the bundle that is replaced",
    ),
    SettingOption(
        "queries",
        'Questions to measure the search with, JSON lines {"_id", "text"}.',
        "FILE",
        "probes drawn from the collection",
    ),
)

_MODELS_STAGES = (
    SettingOption(
        "profile",
        "Roster of models and limits.",
        "|".join(PROFILES),
        "embedded; on Kaggle kaggle-t4x2",
    ),
    SettingOption(
        "ensemble_models",
        "Dense models, primary first: keys of 'models list', folders, or ORG/NAME "
        "of the hub, with @REVISION if it is not the main one.",
        "KEY...",
        "those of the profile",
        "list",
    ),
    SettingOption(
        "sparse_models",
        "Sparse models: keys of 'models list', or a SPLADE model's folder or ORG/NAME.",
        "KEY...",
        "those of the profile",
        "list",
    ),
    SettingOption(
        "rerank_model",
        "CrossEncoder: a key of 'models list', a folder or ORG/NAME.",
        "KEY",
        "that of the profile",
    ),
    SettingOption(
        "rerank_fallback",
        "A smaller reranker, for a GPU without room for the first.",
        "KEY",
        "none",
    ),
    SettingOption(
        "trust_remote_code",
        "Models whose own code may run, by the name given above; read it first.",
        "KEY...",
        "none",
        "list",
    ),
    SettingOption(
        "models_lock",
        "File with the commits of hub models, as 'models fetch' writes it.",
        "FILE",
        "the one in the cache of models",
    ),
    SettingOption(
        "enable_sparse",
        "Make sparse vectors, or none.",
        default="enabled",
        kind="switch",
        names="--enable-sparse/--disable-sparse",
    ),
    SettingOption(
        "enable_rerank",
        "Rerank the candidates of the queries, or none.",
        default="enabled",
        kind="switch",
        names="--enable-rerank/--disable-rerank",
    ),
    SettingOption(
        "rerank_batch_cap", "Most pairs in a batch.", "N", "that of the model"
    ),
    SettingOption(
        "rerank_timeout", "Longest time for the stage.", "SECONDS", "no limit"
    ),
    SettingOption(
        "bm25_profile",
        "How BM25 cuts words; 'code' also takes names in code apart.",
        "qdrant-word|fastembed|code",
        "qdrant-word",
    ),
    SettingOption(
        "long_texts",
        "Texts longer than a model's window: embedded in windows whose vectors are "
        "pooled, or cut off.",
        "windows|cut",
        "windows",
    ),
    SettingOption(
        "fusion",
        "How the rankings of the primary dense model and BM25 become one, e.g. "
        "'rrf(k=60)'; search follows the bundle.",
        "METHOD",
        "auto, what was measured for the model",
    ),
    SettingOption(
        "probes",
        "Measure the bundle by questions drawn from its own text.",
        default="probes",
        kind="switch",
        names="--probes/--no-probes",
    ),
    SettingOption("seed", "Seed of the choice of probes.", "N", "0"),
    SettingOption(
        "skip_failed_models",
        "Go on without a companion model that cannot be had.",
        kind="flag",
    ),
)

_DEVICES = (
    SettingOption(
        "device", "Where models run.", "auto|cpu|cuda|cuda:N,...", "by profile"
    ),
    SettingOption(
        "sparse_device",
        "Where sparse models with weights of their own run.",
        "cpu|cuda|cuda:N",
        "cpu",
    ),
    SettingOption(
        "gpu_memory_cap",
        "Most memory on each GPU, in GiB.",
        "GIB",
        "12; 11 for profile single-gpu-12g",
    ),
    SettingOption(
        "gpu_wait",
        "Wait so long for a GPU that another run holds.",
        "SECONDS",
        "0",
    ),
    SettingOption(
        "workers",
        "CPU worker processes, 0 for one a core; the number changes no byte.",
        "N",
        "0",
    ),
)

_RUN = (
    SettingOption(
        "resume",
        "Do what is unfinished, or everything anew.",
        default="resume",
        kind="switch",
        names="--resume/--fresh",
    ),
    SettingOption(
        "offline",
        "Open no connection, or fetch models that are missing.",
        default="offline for profile embedded",
        kind="switch",
        names="--offline/--online",
    ),
)

_TELEMETRY = (
    SettingOption(
        "log_format",
        "rich needs a terminal; json writes one object a line to standard error.",
        "rich|plain|json",
        "rich on a terminal, else plain",
    ),
    SettingOption(
        "log_level",
        "Least severity that is logged.",
        "debug|info|warning|error",
        "info",
    ),
    SettingOption(
        "redact_queries", "Record a keyed hash in place of a query.", kind="flag"
    ),
    SettingOption("metrics_textfile", "Write Prometheus metrics there.", "FILE"),
    SettingOption("metrics_port", "Serve Prometheus metrics during the run.", "N"),
    SettingOption("otlp_endpoint", "Send OpenTelemetry spans there.", "URL"),
    SettingOption("otlp_file", "Append OpenTelemetry spans to that file.", "FILE"),
    SettingOption(
        "otlp_protocol",
        "How to send them.",
        "grpc|http/protobuf",
        "by port: 4317 is grpc",
    ),
)

OPTIONS = (*_INPUT_OUTPUT, *_MODELS_STAGES, *_DEVICES, *_TELEMETRY, *_RUN)
BY_KEY = {option.key: option for option in OPTIONS}


def with_setting_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command function whose `**given` Typer fills with the options above."""
    own = own_parameters(function)
    return with_parameters(function, [own[0], *setting_parameters(BY_KEY), *own[1:]])


def own_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """Return a command function's parameters without `**given`."""
    signature = inspect.signature(function, eval_str=True)
    return [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def setting_parameters(keys: Iterable[str]) -> list[inspect.Parameter]:
    """Return the parameters from which Typer makes the options of these settings."""
    return [BY_KEY[key].parameter() for key in keys]


def with_parameters(
    function: Callable[..., None], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """Return a command function that Typer calls with these parameters."""
    signature = inspect.signature(function, eval_str=True)
    vars(function)["__signature__"] = signature.replace(parameters=parameters)
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    return function


def with_options(
    function: Callable[..., None], options: Iterable[SettingOption]
) -> Callable[..., None]:
    """Return the command with these options in place of those of the same keys."""
    shown = {option.key: option.parameter() for option in options}
    old = inspect.signature(function).parameters.items()
    return with_parameters(function, [shown.get(name, one) for name, one in old])


def typed(values: Mapping[str, object]) -> Given:
    """Return each setting that was typed, with the option that gave it."""
    given: Given = {}
    for key, value in values.items():
        option = BY_KEY[key]
        unset_flag = option.kind == "flag" and not value
        if value is not None and value != [] and not unset_flag:
            given[key] = (value, option.given_as(value))
    return given
