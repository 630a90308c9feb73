"""What JSON would give -> Avro bodies, the inverse of avro.py.

A click has texts and numbers only, so the schema says how a value is written: an id of digits as a number, a price as
a decimal, a time in the unit of its logical type. A field without a value gets the schema's default, or null.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from io import BytesIO
from typing import Any

from fastavro import schemaless_writer

from stream.registry.avro import parsed_schema
from stream.registry.client import Texts

Writer = Callable[[Any], Any]
"""A value as JSON has it -> the value that fastavro writes. Raises one of UNFIT if the type cannot hold it."""

UNFIT = (ValueError, TypeError, OverflowError, InvalidOperation)

PER_MS = {"millis": 1, "micros": 1_000, "nanos": 1_000_000}
"""Last part of a logical type of times -> its units in a ms."""

LARGEST = {"int": 2**31, "long": 2**63}


def avro_writer(texts: Texts, units: object) -> Callable[[Any], bytes]:
    """The function that makes the body of a value. Raises ValueError, or what the library raises, if it cannot.

    units  as in Framing; None = times are ms, and the schema says in which unit they are written
    """
    schema, names = parsed_schema(texts.text, texts.needs.values())
    as_avro = _writer(schema, names, units is None)

    def write(value: Any) -> bytes:
        out = BytesIO()
        schemaless_writer(out, schema, as_avro(value))
        return out.getvalue()

    return write


def _writer(part: Any, names: Mapping[str, Any], in_ms: bool) -> Writer:
    """The writer of a parsed schema. names: full name -> definition"""
    if isinstance(part, list):
        return _first_of([_writer(each, names, in_ms) for each in part])
    if isinstance(part, str):
        return _writer(names[part], names, in_ms) if part in names else _primitive(part, {}, in_ms)
    kind = part["type"]
    if kind in ("record", "error"):
        return _record(part["fields"], names, in_ms)
    if kind == "enum":
        return _symbol(part["symbols"])
    if kind == "array":
        one = _writer(part["items"], names, in_ms)
        return lambda value: [one(each) for each in _of(list, value)]
    if kind == "map":
        one = _writer(part["values"], names, in_ms)
        return lambda value: {key: one(each) for key, each in _of(dict, value).items()}
    return _primitive(kind, part, in_ms) if isinstance(kind, str) else _writer(kind, names, in_ms)


def _first_of(writers: list[Writer]) -> Writer:
    """The writer of a union: the first type that can hold a value has it."""

    def write(value: Any) -> Any:
        for one in writers:
            try:
                return one(value)
            except UNFIT:
                continue
        raise ValueError(f"no type of a union can hold {value!r}")

    return write


def _record(fields: list[Any], names: Mapping[str, Any], in_ms: bool) -> Writer:
    writers = {field["name"]: _writer(field["type"], names, in_ms) for field in fields}
    defaults = {field["name"] for field in fields if "default" in field}

    def write(value: Any) -> dict[str, Any]:
        given, found = _of(dict, value), {}
        for name, one in writers.items():
            each = given.get(name)
            if each is None and name in defaults:
                continue  # the library writes the default
            try:
                found[name] = one(each)
            except UNFIT as exc:
                raise ValueError(f"field {name}: {exc}") from None
        return found

    return write


def _symbol(symbols: list[str]) -> Writer:
    def write(value: Any) -> str:
        if value not in symbols:
            raise ValueError(f"{value!r} is none of {', '.join(symbols)}")
        return str(value)

    return write


def _primitive(kind: str, part: Mapping[str, Any], in_ms: bool) -> Writer:
    logical = part.get("logicalType", "")
    if kind == "null":
        return _null
    if kind in LARGEST:
        times = PER_MS.get(logical.rpartition("-")[2], 1) if in_ms and "timestamp" in logical else 1
        return lambda value: _whole(value, LARGEST[kind]) * times
    if kind in ("bytes", "fixed"):
        if logical == "decimal":
            unit = Decimal(1).scaleb(-part.get("scale", 0))
            return lambda value: Decimal(str(_given(value))).quantize(unit)
        return lambda value: str(_given(value)).encode()
    if kind == "string":
        return lambda value: str(_given(value))
    return (lambda value: _of(bool, value)) if kind == "boolean" else lambda value: float(_given(value))


def _null(value: Any) -> None:
    if value is not None:
        raise ValueError(f"null cannot hold {value!r}")


def _whole(value: Any, largest: int) -> int:
    """A whole number, or a text that is one and nothing else: with "007" as 7 the id would be another one."""
    found = int(_given(value))
    if str(found) != value and found != value:
        raise ValueError(f"{value!r} is no whole number")
    if not -largest <= found < largest:
        raise ValueError(f"{value!r} is too large")
    return found


def _given(value: Any) -> Any:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError("there is no value" if value is None else f"it cannot hold {value!r}")
    return value


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError("there is no value" if value is None else f"it cannot hold {value!r}")
    return value
