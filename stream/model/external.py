"""Finds the files outside an ONNX file that hold some of its tensors ("external data").

onnxruntime opens them when it loads the graph, so the manifest must list them with their hashes, as it lists the graph.
The worker has no onnx package; the file's protobuf is walked here, only as far as tensors can be.

Source: onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto,
FunctionProto) and docs/ExternalData.md.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.errors import ArtifactError
from stream.manifest import Manifest

VARINT, I64, BYTES, I32 = 0, 1, 2, 5
"""Protobuf wire types."""

CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Message -> field number -> message; fields in which there can be no tensor are left out."""

NAME, RAW_DATA = 8, 9
"""Fields of a tensor."""

DEEPEST = 100


def external_files(path: Path) -> set[str]:
    """The names of the files, relative to the graph's directory, as the graph has them.

    Raises ValueError if the file is no ONNX file.
    """
    return set(_locations(memoryview(path.read_bytes()), "model", 0))


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise ValueError("graphs are nested too deeply")
    for number, value in _fields(data):
        child = CHILDREN[message].get(number)
        if child == "entry":
            key, text = _entry(value)
            if key == "location":
                yield text
        elif child is not None:
            yield from _locations(value, child, depth + 1)


def _entry(data: memoryview) -> tuple[str, str]:
    """Key and value of an entry of external data."""
    words = {number: bytes(text).decode("utf-8", "replace") for number, text in _fields(data)}
    return words.get(1, ""), words.get(2, "")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of the fields of a message that have a length. Raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            _, at = _varint(data, at)
        elif kind in (I64, I32):
            at += 8 if kind == I64 else 4
        elif kind == BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("the file is cut")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"protobuf wire type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("the file is cut")


def check_external(directory: Path, graph: str, manifest: Manifest) -> None:
    """Refuse a graph that would load a file whose hash nobody has checked."""
    try:
        files = external_files(directory / graph)
    except ValueError as exc:
        raise ArtifactError(f"model {directory}: onnxruntime cannot run {graph} (not an ONNX file: {exc})") from exc
    unknown = sorted(files - manifest.files.keys())
    if unknown:
        raise ArtifactError(
            f"model {directory}: {graph} loads {unknown[0][:200]!r}, which is not among the manifest's files, so its "
            "hash is unknown; train it again, or write the weights into the graph"
        )


def constant(directory: Path, graph: str, name: str) -> npt.NDArray[np.uint8] | None:
    """The bytes of a constant of a graph (n,), mapped from the file that has them; None if the graph has none.

    directory  of a loaded model: its files are checked
    """
    data = memoryview((directory / graph).read_bytes())
    graphs = [value for number, value in _fields(data) if CHILDREN["model"].get(number) == "graph"]
    parts = (part for one in graphs for part in _fields(one))
    tensors = [list(_fields(value)) for number, value in parts if CHILDREN["graph"].get(number) == "tensor"]
    named = (fields for fields in tensors if any(n == NAME and bytes(text) == name.encode() for n, text in fields))
    tensor = next(named, None)
    if tensor is None:
        return None
    words = dict(_entry(entry) for number, entry in tensor if CHILDREN["tensor"].get(number) == "entry")
    if "location" in words:
        size, start = int(words["length"]), int(words.get("offset", 0))
        return np.memmap(directory / words["location"], np.uint8, "r", start, (size,))
    raw = next((content for number, content in tensor if number == RAW_DATA), None)
    return None if raw is None else np.frombuffer(raw, np.uint8)
