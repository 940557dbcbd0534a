"""Several values after one option, and options that exclude each other."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.cli.embed import embed
from processor.ultimate_embedder.cli.embed_options import BY_KEY, typed
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.options import plain_types, spread
from processor.ultimate_embedder.config import DEFAULT_GPU_MEMORY_CAP_BYTES, GIB
from processor.ultimate_embedder.models.catalogue import PROFILES
from processor.ultimate_embedder.setting_table import SETTINGS

LISTS = ("--collections", "--sparse-models")
values = st.text("abcxyz,. ", min_size=1).filter(lambda text: text.strip())


def test_help_names_values_without_types_of_python_and_keeps_its_columns() -> None:
    shown = plain_types(
        "Arguments:\n"
        "  bundles... <list[Path]>   Folders.\n"
        "\n"
        "Options:\n"
        "  --grpc-port <int range>   Port.\n"
        "  --stage <dense|sparse>    Which.\n"
    )
    assert shown == (
        "Arguments:\n"
        "  bundles...                Folders.\n"
        "\n"
        "Options:\n"
        "  --grpc-port N             Port.\n"
        "  --stage <dense|sparse>    Which."
    )


@pytest.mark.parametrize(
    ("typed_in", "parsed"),
    [
        ("--collections a b --x", "--collections a --collections b --x"),
        ("--collections a --collections b", "--collections a --collections b"),
        ("--collections=a b", "--collections=a --collections b"),
        ("--profile p q", "--profile p q"),
        ("--collections a -- b", "--collections a -- b"),
        ("--collections", "--collections"),
    ],
)
def test_a_list_option_is_repeated_before_each_value(
    typed_in: str, parsed: str
) -> None:
    assert list(spread(typed_in.split(), LISTS)) == parsed.split()


@given(st.lists(st.tuples(st.sampled_from(LISTS), st.lists(values, min_size=1))))
def test_spreading_loses_and_reorders_no_value(
    groups: list[tuple[str, list[str]]],
) -> None:
    arguments = [word for name, group in groups for word in (name, *group)]
    pairs = list(spread(arguments, LISTS))
    assert pairs[1::2] == [value for _, group in groups for value in group]
    assert pairs[::2] == [name for name, group in groups for _ in group]
    assert list(spread(pairs, LISTS)) == pairs


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("--enable-rerank", "--disable-rerank"),
        ("--enable-sparse", "--disable-sparse"),
        ("--resume", "--fresh"),
        ("--probes", "--no-probes"),
    ],
)
def test_an_option_and_its_opposite_are_refused_in_one_line(
    yes: str, no: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(embed, [no, yes]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {yes} and {no} exclude each other. Give one of them.\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--disable-sparse", "--sparse-models", "splade"], "--sparse-models"),
        (["--disable-rerank", "--rerank-model", "bge-reranker-v2-m3"], "--rerank-m"),
        (["--disable-rerank", "--rerank-timeout", "3"], "--rerank-timeout"),
    ],
)
def test_a_stage_switched_off_takes_no_options(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(embed, arguments) == 2
    err = capsys.readouterr().err
    assert arguments[0] in err
    assert named in err
    assert err.count("\n") == 1


def test_options_with_values_come_out_with_their_names() -> None:
    given_options = typed(
        {
            "collections": ["a", "b"],
            "exports": [],
            "enable_rerank": False,
            "enable_sparse": True,
            "resume": False,
            "redact_queries": True,
            "device": None,
            "seed": "0",
        }
    )
    assert given_options == {
        "collections": (["a", "b"], "--collections"),
        "enable_rerank": (False, "--disable-rerank"),
        "enable_sparse": (True, "--enable-sparse"),
        "resume": (False, "--fresh"),
        "redact_queries": (True, "--redact-queries"),
        "seed": ("0", "--seed"),
    }


def test_every_setting_is_an_option_and_every_option_a_setting() -> None:
    assert BY_KEY.keys() == SETTINGS.keys()


def test_the_help_tells_the_memory_caps_that_profiles_set() -> None:
    told = BY_KEY["gpu_memory_cap"].default
    assert told.startswith(f"{DEFAULT_GPU_MEMORY_CAP_BYTES // GIB};")
    for profile in PROFILES.values():
        if profile.gpu_memory_cap_bytes is not None:
            cap = profile.gpu_memory_cap_bytes // GIB
            assert f"{cap} for profile {profile.name}" in told


CONTRACT_OPTIONS = """
--chunked-dir --output-dir --collections --profile --ensemble-models --sparse-models
--rerank-model --enable-rerank --disable-rerank --enable-sparse --disable-sparse
--queries --device --gpu-memory-cap --jsonl-layout --resume --fresh --offline --dry-run
--metrics-port --metrics-textfile --otlp-endpoint --log-format --log-level
--redact-queries --no-probes --sparse-device --rerank-timeout --skip-failed-models
--baseline --exports --workers --config --debug
""".split()  # noqa: SIM905 - reads as the contract does


def test_help_names_every_option_of_the_contract(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_function(embed, ["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert set(CONTRACT_OPTIONS) <= set(re.findall(r"--[a-z-]+", out))


def test_help_names_the_variables_of_the_contract(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_function(embed, ["--help"])
    words = capsys.readouterr().out
    for setting in SETTINGS.values():
        if setting.variable:
            assert setting.variable in words


def test_typer_sees_one_parameter_for_each_setting() -> None:
    parameters = inspect.signature(embed).parameters
    assert SETTINGS.keys() <= parameters.keys()
    assert "given" not in parameters
