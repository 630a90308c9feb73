"""What JSON would give -> Protobuf bodies, the inverse of protobuf.py.

A file may have several message types. That of a value is the one with most of its fields; of equal ones the first.

The library's JSON reader does nearly all: it takes numbers as text and enums by their names. What is left are times,
which it takes as text only, bytes, which it takes in base64, and ids that would become other ones.
"""

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from stream.registry.client import Texts
from stream.registry.protobuf import FIRST, message_types, varint

if TYPE_CHECKING:
    from stream.registry.framing import Units

TIMESTAMP = "google.protobuf.Timestamp"
EPOCH = datetime.fromtimestamp(0, UTC)

WHOLE = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
)


def protobuf_writer(texts: Texts, units: "Units | None") -> Callable[[Any], bytes]:
    """The function that makes the bytes after the id. Raises ValueError, or what the library raises, if it cannot.

    units  as in Framing; None = times are ms
    """
    types = message_types(texts)
    makes = [message_factory.GetMessageClass(kind) for kind in types]

    def write(value: Any) -> bytes:
        number = max(range(len(types)), key=lambda i: sum(name in types[i].fields_by_name for name in value))
        message = _message(types[number], value, units or (1, 1))
        body: bytes = json_format.ParseDict(message, makes[number]()).SerializeToString()
        return (varint(1) + varint(number) if number else FIRST) + body

    return write


def _message(kind: Descriptor, value: Any, units: "Units") -> dict[str, Any]:
    """A message as the library's JSON reader takes it, without the values for which there is no field."""
    if not isinstance(value, Mapping):
        raise ValueError(f"the type {kind.name} cannot hold {value!r}")
    fields = kind.fields_by_name
    return {name: _value(fields[name], each, units) for name, each in value.items() if name in fields}


def _value(field: FieldDescriptor, value: Any, units: "Units") -> Any:
    if isinstance(value, list):
        return [_value(field, each, units) for each in value]
    kind = field.message_type
    if kind is not None:
        if kind.full_name == TIMESTAMP:
            times, over = units
            return (EPOCH + timedelta(milliseconds=value * times // over)).isoformat().replace("+00:00", "Z")
        own = kind.full_name.startswith("google.protobuf.") or kind.GetOptions().map_entry
        return value if own else _message(kind, value, units)
    if field.cpp_type in WHOLE and isinstance(value, str) and str(int(value)) != value:
        raise ValueError(f"field {field.name}: {value!r} is no whole number")  # with "007" as 7 it is another id
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(str(value).encode()).decode()
    return str(value) if field.type == FieldDescriptor.TYPE_STRING and type(value) in (int, float) else value
