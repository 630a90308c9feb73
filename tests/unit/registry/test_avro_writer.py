"""`eddy replay` writes Avro: what it writes is read by fastavro, as the producer's own message would be."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import BadClick, ConfigError
from stream.registry.avro import avro_body
from stream.registry.avro_writer import AvroWriter
from stream.registry.client import Registry, Texts

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


def writer(schema: Any, in_ms: bool = True, **needs: Any) -> AvroWriter:
    texts = Texts("avro", json.dumps(schema), {name: json.dumps(need) for name, need in needs.items()})
    return AvroWriter(OneSchema(texts), "clicks-value", in_ms)


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
    assert read(schema, writer(schema, in_ms=False)({"a": AT_MS * 1000})) == {"a": AT}


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
        AvroWriter(OneSchema(texts), subject, in_ms=True)
