"""The files in which an ONNX graph keeps its large tensors, read from the graph alone.

A graph is a protobuf message. The path to a tensor's place: ModelProto.graph (7),
GraphProto.initializer (5), TensorProto.external_data (13), which are pairs of key (1)
and value (2); numbers are those of onnx.proto3. Tensors inside are skipped, not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import ModelError

_GRAPH, _INITIALIZER, _EXTERNAL, _KEY, _VALUE = 7, 5, 13, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_NAME = 4096
_Span = tuple[int, int]


def tensor_files(graph: Path) -> tuple[str, ...]:
    """Return the names of the files beside a graph that hold tensors of it.

    Raises:
        ModelError: it is no graph, or names a file that lies elsewhere.
    """
    try:
        with graph.open("rb") as stream:
            found = set(_locations(stream, graph.stat().st_size))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{graph} is no ONNX graph: {error}.", cure="Fetch or export it again."
        ) from error
    for name in found:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ModelError(
                f"{graph} keeps tensors in '{name[:80]}', which is not beside it.",
                cure="Choose another model, or export the graph again.",
            )
    return tuple(sorted(found))


def _locations(stream: BinaryIO, size: int) -> Iterator[str]:
    for graph in _parts(stream, (0, size), _GRAPH):
        for tensor in _parts(stream, graph, _INITIALIZER):
            for pair in _parts(stream, tensor, _EXTERNAL):
                if _text(stream, pair, _KEY) == "location":
                    yield _text(stream, pair, _VALUE)


def _text(stream: BinaryIO, pair: _Span, number: int) -> str:
    for start, end in _parts(stream, pair, number):
        if end - start > _LONGEST_NAME:
            raise ValueError(f"a name of {end - start} bytes")
        stream.seek(start)
        return stream.read(end - start).decode("utf-8")
    return ""


def _parts(stream: BinaryIO, within: _Span, wanted: int) -> Iterator[_Span]:
    """Yield where the contents of one field lie: from, to."""
    place, end = within
    while place < end:
        stream.seek(place)
        tag = _varint(stream)
        kind = tag & 7
        if kind == _VARINT:
            _varint(stream)
            place = stream.tell()
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            length = _varint(stream)
        if length is None:
            raise ValueError(f"a field of kind {kind} at byte {place}")
        start = stream.tell()
        place = start + length
        if place > end:
            raise ValueError(f"it ends {place - end} bytes early")
        if tag >> 3 == wanted and kind == _BYTES:
            yield start, place


def _varint(stream: BinaryIO) -> int:
    """Return a number of seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise ValueError("it ends in the middle of a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than ten bytes")
