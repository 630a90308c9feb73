"""Protobuf bodies -> what JSON would give, by descriptors from the registry and without generated code.

Names are those of the .proto file. An enum is its name, also if it is the first one, which is not in the bytes. Other
fields that a message does not have are left out: a number 0 that no producer set must not be a user's id. The types of
google.protobuf are as in Protobuf's JSON: a Timestamp is a text with a date.

A registry has the schema as text or as a descriptor. Text is compiled by protoc, once, in a process of its own.
"""

import base64
import binascii
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from stream.registry.body import HEADER, text_of
from stream.registry.client import Texts

COMPILE_S = 60.0
MOST_NUMBERS = 32
"""Of a message type: it may be in another one, and that in another one."""

FIRST = b"\0"
MAIN = "eddy/main.proto"
GOOGLE = "google.protobuf."
OF_GOOGLE = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (
        any_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )
}
"""Files of Protobuf itself, which a schema may import and a registry does not have."""

Reader = Callable[[Any], Any]


def protobuf_body(texts: Texts) -> Any:
    """The function that decodes messages of a schema. Raises ValueError, or what the library raises, if it cannot."""
    types = message_types(texts)
    of_numbers: dict[tuple[int, ...], tuple[Any, Reader]] = {}

    def body(value: bytes) -> Any:
        numbers, begin = _numbers(value)
        found = of_numbers.get(numbers)
        if found is None:
            kind = _type(types, numbers)
            found = of_numbers[numbers] = message_factory.GetMessageClass(kind), _reader(kind, {})
        make, read = found
        return read(make.FromString(value[begin:]))

    return body


def message_types(texts: Texts) -> list[Descriptor]:
    """The message types of a schema's file, in its order. Raises ValueError, or what the library raises."""
    pool = descriptor_pool.DescriptorPool()
    for file in _files(texts):
        pool.Add(file)
    return list(pool.FindFileByName(MAIN).message_types_by_name.values())


def _numbers(value: bytes) -> tuple[tuple[int, ...], int]:
    """The numbers of the message type, from the outermost one on, and where the body begins.

    They are their count and themselves, as zigzag varints; FIRST is short for the first type of the file.
    """
    count, at = _varint(value, HEADER)
    if count == 0:
        return (0,), at
    if not 0 < count <= MOST_NUMBERS:
        raise ValueError(f"{count} numbers of a message type")
    numbers = []
    for _ in range(count):
        number, at = _varint(value, at)
        numbers.append(number)
    return tuple(numbers), at


def _varint(value: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(value) or shift > 28:
            raise ValueError("no number of the message type")
        byte = value[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return (number >> 1) ^ -(number & 1), at


def varint(number: int) -> bytes:
    """A number of at least 0 as a zigzag varint."""
    parts, left = [], number * 2
    while left > 127:
        parts.append(left & 127 | 128)
        left >>= 7
    return bytes([*parts, left])


def _type(types: list[Descriptor], numbers: tuple[int, ...]) -> Descriptor:
    if not 0 <= numbers[0] < len(types):
        raise ValueError(f"the schema has no message type with the number {numbers[0]}")
    kind = types[numbers[0]]
    return _type(list(kind.nested_types), numbers[1:]) if numbers[1:] else kind


# -- values -----------------------------------------------------------------------------------------------------------


def _reader(kind: Descriptor, known: dict[str, Reader]) -> Reader:
    """The function that makes a dict of a message. known: full name -> that of each type, which may contain itself."""
    if kind.full_name in known:
        return known[kind.full_name]
    if kind.full_name.startswith(GOOGLE):
        return _google
    readers: dict[int, tuple[str, Reader]] = {}
    unset = {}  # enums that are not in the bytes
    known[kind.full_name] = lambda message: read(message)
    for field in kind.fields:
        readers[field.number] = field.name, _field_reader(field, known)
        if field.enum_type is not None and not field.is_repeated and not field.has_presence:
            unset[field.name] = field.enum_type.values_by_number[0].name

    def read(message: Any) -> dict[str, Any]:
        found = dict(unset)
        for field, value in message.ListFields():
            if not field.is_extension:
                name, as_json = readers[field.number]
                found[name] = as_json(value)
        return found

    known[kind.full_name] = read
    return read


def _field_reader(field: FieldDescriptor, known: dict[str, Reader]) -> Reader:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        one = _value_reader(entry.fields_by_name["value"], known)
        return lambda value: {_key(key): one(value[key]) for key in value}
    one = _value_reader(field, known)
    return (lambda value: [one(each) for each in value]) if field.is_repeated else one


def _value_reader(field: FieldDescriptor, known: dict[str, Reader]) -> Reader:
    if field.message_type is not None:
        return _reader(field.message_type, known)
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    return text_of if field.type == FieldDescriptor.TYPE_BYTES else _same


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _google(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _same(value: Any) -> Any:
    return value


# -- descriptors ------------------------------------------------------------------------------------------------------


def _files(texts: Texts) -> list[descriptor_pb2.FileDescriptorProto]:
    """The schema's file as MAIN, after those that it imports."""
    sources = {**texts.needs, MAIN: texts.text}
    given = {name: _serialized(text) for name, text in sources.items()}
    files = {name: file for name, file in given.items() if file is not None}
    if len(files) < len(given):
        if files:
            raise ValueError("some of its files are text and some are descriptors")
        return _compiled(sources)
    for name, file in files.items():
        file.name = name
    return [*_googles(set(files), list(files.values())), *files.values()]


def _serialized(text: str) -> descriptor_pb2.FileDescriptorProto | None:
    """A descriptor in base64; None if it is something else."""
    try:
        return descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, DecodeError):
        return None


def _googles(
    there: set[str], files: list[descriptor_pb2.FileDescriptorProto]
) -> list[descriptor_pb2.FileDescriptorProto]:
    """The files of Protobuf itself that others import, each one after those that it imports."""
    found: list[descriptor_pb2.FileDescriptorProto] = []
    for file in files:
        for name in file.dependency:
            if name in there:
                continue
            if name not in OF_GOOGLE:
                raise ValueError(f"it imports {name}, which the Schema Registry does not have")
            there.add(name)
            own = descriptor_pb2.FileDescriptorProto()
            OF_GOOGLE[name].CopyToProto(own)
            found += [*_googles(there, [own]), own]
    return found


def _compiled(sources: dict[str, str]) -> list[descriptor_pb2.FileDescriptorProto]:
    with TemporaryDirectory(prefix="eddy-proto-") as name:
        directory = Path(name)
        for path, text in sources.items():
            file = (directory / path).resolve()
            if not file.is_relative_to(directory.resolve()):
                raise ValueError(f"an import leads out of its directory: {path[:80]!r}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        out = directory / "eddy.descriptors"
        words = [f"--proto_path={directory}", f"--descriptor_set_out={out}", "--include_imports", MAIN]
        done = subprocess.run(
            [sys.executable, "-c", PROTOC, *words], capture_output=True, text=True, timeout=COMPILE_S, check=False
        )
        if done.returncode or not out.exists():
            raise ValueError(f"protoc refuses it: {done.stderr.replace(name + '/', '').strip()[:200]}")
        return list(descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file)


PROTOC = """
import sys
from pathlib import Path
import grpc_tools
from grpc_tools import protoc
sys.exit(protoc.main(["protoc", *sys.argv[1:], f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}"]))
"""
"""protoc, with the files of Protobuf itself that a schema may import."""
