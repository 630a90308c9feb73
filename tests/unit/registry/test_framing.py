"""`eddy replay` writes Avro and Protobuf. What it writes is read by fastavro, and by classes of protoc's types."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader
from google.protobuf import message_factory
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import BadClick, ConfigError
from stream.registry.avro import avro_body
from stream.registry.client import Registry, Texts
from stream.registry.framing import Framing
from stream.registry.protobuf import _varint, message_types, protobuf_body, varint

MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
CENTS = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
KIND = {"type": "enum", "name": "Kind", "symbols": ["VIEW", "BUY"]}
AT_MS = 1_741_046_400_000
AT = datetime(2025, 3, 4, tzinfo=UTC)


class OneSchema(Registry):
    """A registry with one schema, of the subject "clicks-value"."""

    url = "http://registry"

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def newest(self, subject: str) -> tuple[int, Texts]:
        if subject != "clicks-value":
            raise BadClick("unknown_schema", "no schema")
        return 7, self.texts


def writer(schema: Any, units: tuple[int, int] | None = None, **needs: Any) -> Framing:
    texts = Texts("avro", json.dumps(schema), {name: json.dumps(need) for name, need in needs.items()})
    return Framing(OneSchema(texts), "avro", "clicks-value", units)


def record(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "Click", "namespace": "shop", "fields": list(fields)}


def read(schema: Any, message: bytes) -> Any:
    assert message[:5] == b"\0\0\0\0\7"
    return schemaless_reader(BytesIO(message[5:]), parse_schema(schema), None)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", "boots ü", "boots ü"),
        ("long", "17", 17),
        ("int", 2.0, 2),
        ("double", 9, 9.0),
        ("boolean", True, True),
        ("bytes", "ü", "ü".encode()),
        (["null", "string"], "x", "x"),
        (["null", "string"], None, None),
        (["null", "long", "string"], "u17", "u17"),
        (["null", "long", "string"], "17", 17),
        (["null", CENTS], 12.34, Decimal("12.34")),
        (MILLIS, AT_MS, AT),
        (["null", MICROS], AT_MS, AT),
        (KIND, "BUY", "BUY"),
        ({"type": "array", "items": "string"}, ["a", "b"], ["a", "b"]),
        ({"type": "map", "values": "long"}, {"a": "1"}, {"a": 1}),
    ],
)
def test_a_value_has_the_type_of_the_schema(kind: Any, value: Any, expected: Any) -> None:
    schema = record({"name": "a", "type": kind})
    assert read(schema, writer(schema)({"a": value})) == {"a": expected}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("long", "007"),  # as 7 it would be another id
        ("long", "u17"),
        ("long", 1.5),
        ("int", 2**31),
        ("long", 2**63),
        ("string", True),
        ("string", None),
        ("boolean", "true"),
        (KIND, "LOOK"),
        (["null", "long"], "u17"),
        (record({"name": "b", "type": "string"}) | {"name": "Inner"}, {}),
    ],
)
def test_a_value_that_the_schema_cannot_hold_is_refused_with_its_field(kind: Any, value: Any) -> None:
    with pytest.raises(BadClick, match=r"not_of_schema.*field a: "):
        writer(record({"name": "a", "type": kind}))({"a": value})


def test_fields_without_a_value_get_the_default_or_null() -> None:
    """And values for which the schema has no field are left out."""
    schema = record(
        {"name": "a", "type": "string"},
        {"name": "b", "type": "int", "default": 5},
        {"name": "c", "type": ["null", "string"]},
        {"name": "d", "type": ["string", "null"], "default": "web"},
    )
    assert read(schema, writer(schema)({"a": "x", "z": 1})) == {"a": "x", "b": 5, "c": None, "d": "web"}


def test_types_may_be_of_other_schemas_and_used_twice() -> None:
    part = {"type": "record", "name": "Part", "namespace": "shop", "fields": [{"name": "id", "type": "string"}]}
    schema = record({"name": "one", "type": "shop.Part"}, {"name": "two", "type": ["null", "shop.Part"]})
    value = {"one": {"id": "a"}, "two": {"id": "b"}}
    message = writer(schema, part=part)(value)
    assert avro_body(Texts("avro", json.dumps(schema), {"part": json.dumps(part)}))(message) == value


def test_a_time_whose_unit_the_mapping_has_is_written_as_it_is() -> None:
    schema = record({"name": "a", "type": MICROS})
    assert read(schema, writer(schema, (1, 1000))({"a": AT_MS * 1000})) == {"a": AT}


@given(
    id_=st.text(min_size=1, max_size=9),
    price=st.none() | st.decimals(0, 10**6, places=2),
    at=st.integers(10**12, 2 * 10**12),
)
def test_a_worker_reads_what_was_written(id_: str, price: Decimal | None, at: int) -> None:
    fields = {"id": "string", "price": ["null", CENTS], "at": MILLIS}
    schema = record(*({"name": name, "type": kind} for name, kind in fields.items()))
    value = {"id": id_, "price": None if price is None else float(price), "at": at}
    assert avro_body(Texts("avro", json.dumps(schema), {}))(writer(schema)(value)) == value


@pytest.mark.parametrize(
    ("subject", "texts", "why"),
    [
        ("other-value", Texts("avro", '"string"', {}), "no schema for the subject other-value; register"),
        ("clicks-value", Texts("protobuf", "", {}), "schema 7 .* cannot be used: it is protobuf"),
        ("clicks-value", Texts("avro", "{", {}), "schema 7 .* cannot be used"),
    ],
)
def test_a_subject_without_a_usable_schema_is_an_error_that_says_what_to_do(
    subject: str, texts: Texts, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        Framing(OneSchema(texts), "avro", subject, None)


PROTO = """
syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message Other { string user = 1; }
message Click {
  string user = 1;
  Product product = 2;
  google.protobuf.Timestamp at = 3;
  Kind kind = 4;
  google.protobuf.DoubleValue price = 5;
  repeated string tags = 6;
  map<string, string> context = 7;
  bytes visitor = 8;
  message Product { int64 id = 1; optional int32 count = 2; }
}
enum Kind { VIEW = 0; BUY = 1; }
"""


@pytest.mark.parametrize(("units", "at"), [(None, AT_MS), ((1, 1), AT_MS), ((1_000, 1), AT_MS // 1000)])
def test_protobuf_has_the_types_of_its_schema(units: tuple[int, int] | None, at: int) -> None:
    """Values without a field are left out; a time in the mapping's unit becomes a Timestamp."""
    texts = Texts("protobuf", PROTO, {})
    write = Framing(OneSchema(texts), "protobuf", "clicks-value", units)
    product = {"id": "17", "count": 2.0, "colour": "red"}
    message = write(
        {"visitor": "abcd", "user": 5, "product": product, "at": at, "kind": "BUY", "price": 9.5, "tags": ["a"], "z": 1}
    )
    assert message[:7] == b"\0\0\0\0\7\x02\x02"  # one number, 1: the second type of the file
    found = message_factory.GetMessageClass(message_types(texts)[1]).FromString(message[7:])
    assert (found.user, found.product.id, found.product.count, found.kind) == ("5", 17, 2, 1)
    assert (found.at.ToMilliseconds(), found.price.value, list(found.tags)) == (AT_MS, 9.5, ["a"])
    assert found.visitor == b"abcd"  # as base64 it would be other bytes
    assert protobuf_body(texts)(message)["at"] == "2025-03-04T00:00:00Z"


@given(number=st.integers(0, 2**28 - 1))
def test_the_number_of_a_type_is_read_as_it_was_written(number: int) -> None:
    assert _varint(varint(number), 0) == (number, len(varint(number)))


@pytest.mark.parametrize("value", [{"product": {"id": "007"}}, {"product": "17"}, {"kind": "LOOK"}, {"user": True}])
def test_protobuf_refuses_what_its_schema_cannot_hold(value: dict[str, Any]) -> None:
    write = Framing(OneSchema(Texts("protobuf", PROTO, {})), "protobuf", "clicks-value", None)
    with pytest.raises(BadClick, match="not_of_schema"):
        write(value)
