"""Pairs from descriptions of services: operations, their examples, command help."""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import yaml  # type: ignore[import-untyped]

from training.mine_packages import Package, texts
from training.mine_pairs import Pair, first_sentence, share
from training.mine_queries import plain, vary

EXAMPLES_SHOWN = 3


def api_pairs(package: Package) -> Iterator[Pair]:
    """The pairs of every service description of a package."""
    for path, data in package.files.items():
        if path.endswith(("service-2.json.gz", "service-2.json")):
            yield from _service(_json(path, data))
        elif path.endswith(("examples-1.json.gz", "examples-1.json")):
            yield from _service_examples(_json(path, data))
        elif "discovery_cache/documents/" in path and path.endswith(".json"):
            yield from _discovery(_json(path, data))
    for _, text in texts(package, "_help.py"):
        yield from _command_help(text)


def _json(path: str, data: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(
        gzip.decompress(data) if path[-3:] == ".gz" else data
    )
    return read


def spaced(name: str) -> str:
    """A CamelCase name as words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)


def markup_free(text: str) -> str:
    """A description without its HTML."""
    text = re.sub(r"</(p|li|h\d|dt|dd)>", "\n\n", text)
    text = re.sub(r"<[^>]*>", "", text)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()


def _service(service: dict[str, Any]) -> Iterator[Pair]:
    shapes = service.get("shapes", {})
    title = service["metadata"].get("serviceFullName", "")
    for name, operation in sorted(service.get("operations", {}).items()):
        described = markup_free(operation.get("documentation", ""))
        sentence, rest = first_sentence(described)
        fields = shapes.get(operation.get("input", {}).get("shape"), {}).get(
            "members", {}
        )
        lines = [f"{title} {name}", rest, *_members(fields)]
        yield Pair(vary(sentence), "\n".join(lines), "operation")
    for name, shape in sorted(shapes.items()):
        if share(title + name) < 0.25:
            sentence, rest = first_sentence(markup_free(shape.get("documentation", "")))
            lines = [f"{title} {name}", rest, *_members(shape.get("members", {}))]
            if len(lines) > 3:
                yield Pair(vary(sentence), "\n".join(lines), "schema")


def _members(members: dict[str, Any]) -> Iterator[str]:
    for name, member in islice(members.items(), 8):
        said, _ = first_sentence(markup_free(member.get("documentation", "")))
        yield f"{name}: {said}"


def _service_examples(described: dict[str, Any]) -> Iterator[Pair]:
    for operation, examples in sorted(described.get("examples", {}).items()):
        for example in examples:
            said = first_sentence(example.get("description", ""))[0]
            said = said if share(said) < 0.5 else example.get("title", said)
            request = json.dumps(example.get("input", {}), indent=1)
            yield Pair(vary(said), f"{operation}\n{request}", "operation-example")


def _discovery(document: dict[str, Any]) -> Iterator[Pair]:
    title = document.get("title", "")
    yield from _methods(document, title)
    for name, schema in sorted(document.get("schemas", {}).items()):
        sentence, rest = first_sentence(schema.get("description", ""))
        lines = [f"{title} {name}", rest, *_properties(schema.get("properties", {}))]
        if share(title + name) < 0.4 and len(lines) > 3:
            yield Pair(vary(sentence), "\n".join(lines), "schema")


def _methods(resource: dict[str, Any], title: str) -> Iterator[Pair]:
    for method in resource.get("methods", {}).values():
        sentence, rest = first_sentence(method.get("description", ""))
        name = method.get("id", "")
        lines = [f"{name} {method.get('path', '')}", rest]
        lines += _properties(method.get("parameters", {}))
        yield Pair(vary(sentence), "\n".join(lines), "operation")
    for inner in resource.get("resources", {}).values():
        yield from _methods(inner, title)


def _properties(properties: dict[str, Any]) -> Iterator[str]:
    for name, value in islice(sorted(properties.items()), 8):
        said, _ = first_sentence(value.get("description", ""))
        yield f"{name}: {said}"


def _command_help(text: str) -> Iterator[Pair]:
    """Help written as YAML under `helps["command"]`: examples and summaries."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            yield from _help_entry(str(target.slice.value), str(node.value.value))


def _help_entry(command: str, written: str) -> Iterator[Pair]:
    try:
        entry = yaml.safe_load(written)
    except yaml.YAMLError:
        return
    if not isinstance(entry, dict):
        return
    examples = [e for e in entry.get("examples") or () if isinstance(e, dict)]
    for example in examples[:EXAMPLES_SHOWN]:
        shown = str(example.get("text", "")).strip()
        said = re.sub(r"\s*\(auto\w*\)", "", str(example.get("name", "")))
        yield Pair(vary(plain(said)), shown, "example-command")
    sentence, _ = first_sentence(str(entry.get("short-summary", "")))
    described = str(entry.get("long-summary", ""))
    yield Pair(vary(sentence), f"{command}\n{described}", "command-summary")
