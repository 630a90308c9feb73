"""Avro bodies -> what JSON would give, by schemas that are changed for it once.

Logical types are left out, so that times are numbers of ms or us, whose unit Eddy knows by their size or by [time].
Decimals become numbers, and bytes become text if they are UTF-8. A union is the value that it has.

A schema that contains itself is refused: the library reads it by recursion in C, and a message of some thousand bytes
would end the process. So is a list of values without bytes, which a message of 15 bytes can make endless.
"""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING, Any

from fastavro import parse_schema, schemaless_reader
from fastavro.read import LOGICAL_READERS

from stream.registry.body import HEADER, text_of

if TYPE_CHECKING:
    from stream.registry.client import Texts  # it needs more packages, which who reads a log may not have

DECIMAL, TEXT = "eddy-decimal", "eddy-text"


def avro_body(texts: "Texts") -> Any:
    """The function that decodes messages of a schema. Raises ValueError, or what the library raises, if it cannot."""
    schema = plain_schema(texts.text, texts.needs.values())

    def body(value: bytes) -> Any:
        rest = BytesIO(value)
        rest.seek(HEADER)
        found = schemaless_reader(rest, schema, None)
        if rest.tell() != len(value):
            raise ValueError(f"{len(value) - rest.tell()} bytes follow the body")
        return found

    return body


def plain_schema(text: str, needs: Iterable[str] = ()) -> Any:
    """A schema with Eddy's logical types only, as fastavro reads it.

    needs  the schemas that it refers to, each one after those that it needs itself
    Raises ValueError, or what the library raises, if it cannot be used.
    """
    parsed, names = parsed_schema(text, needs)
    return parse_schema(_plain(parsed, names, set(), ()))


def parsed_schema(text: str, needs: Iterable[str]) -> tuple[Any, dict[str, Any]]:
    """A schema as fastavro has it, and full name -> definition of its types. needs: as in plain_schema"""
    names: dict[str, Any] = {}
    for need in needs:
        parse_schema(json.loads(need), names)
    return parse_schema(json.loads(text), names), names


def _plain(part: Any, names: Mapping[str, Any], defined: set[str], inside: tuple[str, ...]) -> Any:
    """A parsed schema with Eddy's logical types only.

    names    full name -> definition of the types of all schemas
    defined  the types that are defined in what was read so far; each must be defined once, where it is first used
    inside   the types that this part is in
    """
    if isinstance(part, list):
        return [_plain(each, names, defined, inside) for each in part]
    if isinstance(part, str):
        if part not in names:
            return {"type": "bytes", "logicalType": TEXT} if part == "bytes" else part
        if part in inside:
            raise ValueError(f"the type {part} contains itself")
        return part if part in defined else _plain(names[part], names, defined, inside)
    kind = part["type"]
    if isinstance(kind, dict | list):
        return _plain(kind, names, defined, inside)
    if kind in ("record", "error"):
        name = part["name"]
        defined.add(name)
        fields = [
            {"name": field["name"], "type": _plain(field["type"], names, defined, (*inside, name))}
            for field in part["fields"]
        ]
        return {"type": "record", "name": name, "fields": fields}
    if kind == "enum":
        defined.add(part["name"])
        return {"type": kind, "name": part["name"], "symbols": part["symbols"]}
    if kind == "array":
        if _empty(part["items"], names, ()):
            raise ValueError("a list has elements without bytes")
        return {"type": kind, "items": _plain(part["items"], names, defined, inside)}
    if kind == "map":
        return {"type": kind, "values": _plain(part["values"], names, defined, inside)}
    if kind not in ("bytes", "fixed"):
        return _plain(kind, names, defined, inside)
    logical: dict[str, Any] = {"logicalType": TEXT}
    if part.get("logicalType") == "decimal":
        logical = {"logicalType": DECIMAL, "precision": part["precision"], "scale": part.get("scale", 0)}
    if kind == "bytes":
        return {"type": kind, **logical}
    defined.add(part["name"])
    return {"type": kind, "name": part["name"], "size": part["size"], **logical}


def _empty(part: Any, names: Mapping[str, Any], inside: tuple[str, ...]) -> bool:
    """Whether a value of a type may have no bytes."""
    if isinstance(part, str):
        return part == "null" or (part in names and part not in inside and _empty(names[part], names, (*inside, part)))
    if isinstance(part, list):
        return False  # the number of the type is a byte
    if part["type"] in ("record", "error"):
        return all(_empty(field["type"], names, (*inside, part["name"])) for field in part["fields"])
    if part["type"] == "fixed":
        return not part["size"]
    return isinstance(part["type"], dict | str) and part["type"] == "null"


def _decimal(data: bytes, schema: Any = None, *_: Any) -> float:
    return float(Decimal(int.from_bytes(data, "big", signed=True)).scaleb(-schema["scale"]))


def _text(data: bytes, *_: Any) -> str | bytes:
    return text_of(data)


for _kind in ("bytes", "fixed"):
    LOGICAL_READERS[f"{_kind}-{DECIMAL}"] = _decimal
    LOGICAL_READERS[f"{_kind}-{TEXT}"] = _text
