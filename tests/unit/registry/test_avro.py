"""Avro messages become what JSON would give. The oracle is fastavro's writer."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from stream.registry.avro import avro_body
from stream.registry.client import Texts

HEADER = b"\0\0\0\0\7"


def message(schema: Any, event: Any) -> bytes:
    out = BytesIO()
    schemaless_writer(out, parse_schema(schema), event)
    return HEADER + out.getvalue()


def decoded(schema: Any, value: bytes, **needs: Any) -> Any:
    texts = {name: json.dumps(need) for name, need in needs.items()}
    return avro_body(Texts("avro", json.dumps(schema), texts))(value)


def record(*fields: tuple[str, Any]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "Click",
        "namespace": "shop",
        "fields": [{"name": name, "type": kind} for name, kind in fields],
    }


@pytest.mark.parametrize(
    ("kind", "given_", "expected"),
    [
        ("string", "boots ü", "boots ü"),
        (["null", "string"], None, None),
        (["null", "string"], "x", "x"),
        (["string", "long"], 17, 17),
        ("boolean", True, True),
        ("double", 89.9, 89.9),
        ("bytes", "boots ü".encode(), "boots ü"),
        (["null", "bytes"], b"x", "x"),
        ("bytes", b"\xff\xfe", b"\xff\xfe"),
        ({"type": "long", "logicalType": "timestamp-millis"}, datetime(2025, 3, 4, tzinfo=UTC), 1_741_046_400_000),
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime(2025, 3, 4, tzinfo=UTC), 1_741_046_400_000_000),
        (["null", {"type": "long", "logicalType": "timestamp-millis"}], None, None),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Decimal("-12.34"), -12.34),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9}, Decimal("12"), 12.0),
        (
            {"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2},
            Decimal("9.90"),
            9.9,
        ),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab", "ab"),
        ({"type": "enum", "name": "E", "symbols": ["VIEW", "BUY"]}, "BUY", "BUY"),
        ({"type": "map", "values": "int"}, {"a": 1}, {"a": 1}),
        ({"type": "array", "items": record(("id", "bytes"))}, [{"id": b"x"}, {"id": b"y"}], [{"id": "x"}, {"id": "y"}]),
        ({"type": "string", "avro.java.string": "String"}, "java", "java"),
    ],
)
def test_a_value_is_what_json_would_give(kind: Any, given_: Any, expected: Any) -> None:
    """Times are numbers, decimals too, bytes are text; a union is its value."""
    schema = record(("before", "string"), ("value", kind), ("after", "string"))
    schema["name"] = "Outer"
    value = message(schema, {"before": "b", "value": given_, "after": "a"})
    assert decoded(schema, value) == {"before": "b", "value": expected, "after": "a"}


EVENT = record(
    ("user", ["null", "string", "long"]),
    ("item", {"type": "record", "name": "Item", "fields": [{"name": "sku", "type": "string"}]}),
    ("others", {"type": "array", "items": "Item"}),
    ("kind", {"type": "enum", "name": "Kind", "symbols": ["VIEW", "BUY"]}),
    ("price", ["null", "double"]),
    ("tags", {"type": "map", "values": ["null", "boolean", "int"]}),
)
ITEMS = st.builds(lambda sku: {"sku": sku}, st.text())
EVENTS = st.fixed_dictionaries(
    {
        "user": st.none() | st.text() | st.integers(-(2**63), 2**63 - 1),
        "item": ITEMS,
        "others": st.lists(ITEMS, max_size=3),
        "kind": st.sampled_from(["VIEW", "BUY"]),
        "price": st.none() | st.floats(allow_nan=False),
        "tags": st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1), max_size=3),
    }
)
BODY = avro_body(Texts("avro", json.dumps(EVENT), {}))


@given(event=EVENTS)
def test_an_event_comes_back_as_it_was_written(event: Any) -> None:
    """Any values, a type that is used twice too."""
    assert BODY(message(EVENT, event)) == event


@given(event=EVENTS, at=st.integers(5, 30), more=st.binary(min_size=1, max_size=3))
def test_a_body_that_is_cut_or_longer_is_refused(event: Any, at: int, more: bytes) -> None:
    """It is no event with the fields that are left."""
    value = message(EVENT, event)
    for broken in (value[: min(at, len(value) - 1)], value + more):
        with pytest.raises((EOFError, IndexError, ValueError)):
            BODY(broken)


def test_types_of_other_schemas_are_known() -> None:
    """By references, one of which refers to another one; also where the schema is only a choice of them."""
    money = {"type": "record", "name": "shop.Money", "fields": [{"name": "cents", "type": "int"}]}
    item = {"type": "record", "name": "shop.Item", "fields": [{"name": "price", "type": "shop.Money"}]}
    click = record(("item", "shop.Item"), ("paid", ["null", "shop.Money"]))
    whole = record(("item", {**item, "fields": [{"name": "price", "type": money}]}), ("paid", ["null", "shop.Money"]))
    event = {"item": {"price": {"cents": 990}}, "paid": {"cents": 900}}
    assert decoded(click, message(whole, event), money=money, item=item) == event
    choice = decoded(["shop.Item", "shop.Money"], HEADER + b"\x02" + b"\x14", money=money, item=item)
    assert choice == {"cents": 10}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (record(("next", ["null", "shop.Click"])), "contains itself"),
        (record(("all", {"type": "array", "items": "null"})), "without bytes"),
        (
            record(("all", {"type": "array", "items": {"type": "record", "name": "Nothing", "fields": []}})),
            "without bytes",
        ),
        (record(("x", "no such type")), "no such type"),
    ],
)
def test_a_schema_that_would_harm_the_worker_is_refused(schema: Any, why: str) -> None:
    """One of them would end the process by a message of some thousand bytes."""
    with pytest.raises(Exception, match=why):
        avro_body(Texts("avro", json.dumps(schema), {}))
