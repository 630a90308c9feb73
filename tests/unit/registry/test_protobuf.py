"""Protobuf messages become what JSON would give. The oracle is Protobuf's library, which writes the messages."""

import base64
from functools import cache
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.registry.client import Texts
from stream.registry.protobuf import MAIN, _compiled, protobuf_body

HEADER = b"\0\0\0\0\7"
FIRST = HEADER + b"\0"
PROTO = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "shop/money.proto";
message Other { int32 n = 1; message Inner { string text = 1; } }
message Click {
  enum Kind { VIEW = 0; BUY = 1; }
  string user = 1;
  int64 item = 2;
  google.protobuf.Timestamp at = 3;
  Kind kind = 4;
  double price = 5;
  optional int32 count = 6;
  repeated Other others = 7;
  map<string, Money> paid = 8;
  bytes raw = 9;
  google.protobuf.StringValue session = 10;
  oneof who { string anonymous = 11; uint64 known = 12; }
  Click next = 13;
  repeated Kind kinds = 14;
  map<bool, string> flags = 15;
}
"""
MONEY = 'syntax = "proto3"; package shop; message Money { int64 cents = 1; }'
SOURCES = {"shop/money.proto": MONEY, MAIN: PROTO}


@cache
def types() -> dict[str, Any]:
    """The classes of the messages, by protoc and not by what is tested here."""
    pool = descriptor_pool.DescriptorPool()
    for file in _compiled(SOURCES):
        pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.{name}"))
        for name in ("Click", "Other", "Other.Inner")
    }


@cache
def body(form: str) -> Any:
    if form == "text":
        return protobuf_body(Texts("protobuf", PROTO, {"shop/money.proto": MONEY}))
    serialized = {
        file.name: base64.b64encode(file.SerializeToString()).decode()
        for file in _compiled(SOURCES)
        if not file.name.startswith("google/")
    }
    main = serialized.pop(MAIN)
    return protobuf_body(Texts("protobuf", main, serialized))


CLICK = FIRST[:-1] + b"\2\2"
"""The second message type of the file: one number, 1, both as zigzag varints."""


@pytest.mark.parametrize("form", ["text", "serialized"])
def test_an_event_is_what_json_would_give(form: str) -> None:
    """Names of the file, an enum by its name, a time as text with a date; absent numbers are no values."""
    click = types()["Click"](user="u", item=2**53 + 1, kind=1, others=[{"n": 4}, {}], raw="ü".encode(), known=7)
    click.at.FromMilliseconds(1_741_046_400_123)
    click.paid["card"].cents = 990
    click.session.value = "s"
    click.kinds.extend([0, 1])
    click.flags[True] = "yes"
    click.next.user = "v"
    assert body(form)(CLICK + click.SerializeToString()) == {
        "user": "u",
        "item": 2**53 + 1,
        "at": "2025-03-04T00:00:00.123Z",
        "kind": "BUY",
        "others": [{"n": 4}, {}],
        "raw": "ü",
        "known": 7,
        "paid": {"card": {"cents": 990}},
        "session": "s",
        "kinds": ["VIEW", "BUY"],
        "flags": {"true": "yes"},
        "next": {"user": "v", "kind": "VIEW"},
    }


def test_the_first_name_of_an_enum_is_read_though_it_is_not_in_the_bytes() -> None:
    """Else each view would be an event without a type."""
    assert body("text")(CLICK + types()["Click"](user="u").SerializeToString()) == {"user": "u", "kind": "VIEW"}


@pytest.mark.parametrize(
    ("numbers", "name", "event"),
    [
        (b"\0", "Other", {"n": 3}),
        (b"\2\0", "Other", {"n": 3}),
        (b"\2\2", "Click", {"user": "u", "kind": "VIEW"}),
        (b"\4\0\0", "Other.Inner", {"text": "x"}),
    ],
)
def test_the_message_type_is_that_of_its_numbers(numbers: bytes, name: str, event: dict[str, Any]) -> None:
    """One in another one too; the byte 0 is the first one."""
    sent = json_format.ParseDict(event, types()[name]())
    assert body("text")(HEADER + numbers + sent.SerializeToString()) == event


@pytest.mark.parametrize("value", [HEADER, HEADER + b"\2", HEADER + b"\2\6", HEADER + b"\1", HEADER + b"\xff" * 9])
def test_numbers_of_no_message_type_are_refused(value: bytes) -> None:
    """They are cut off, too large, negative or without an end."""
    with pytest.raises(ValueError, match=r"message type"):
        body("text")(value)


@settings(max_examples=50)
@given(user=st.text(), item=st.integers(-(2**63), 2**63 - 1), price=st.floats(allow_nan=False), count=st.integers(0, 9))
def test_an_event_comes_back_as_it_was_written(user: str, item: int, price: float, count: int) -> None:
    """Only what is 0 or empty, and has no `optional`, is left out."""
    sent = types()["Click"](user=user, item=item, price=price, count=count)
    given_ = {"user": user, "item": item, "price": price, "kind": "VIEW"}
    expected = {name: value for name, value in given_.items() if value} | {"count": count}
    found = body("text")(CLICK + sent.SerializeToString())
    found.pop("price", None) if price == 0 else None  # -0.0 is in the bytes
    assert found == expected


@pytest.mark.parametrize(
    ("text", "needs", "why"),
    [
        ("no schema", {}, "protoc refuses it"),
        ('syntax = "proto3"; import "no/where.proto"; message M {}', {}, "protoc refuses it"),
        ('syntax = "proto3"; message M {}', {"../../out.proto": MONEY}, "leads out of its directory"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(text: str, needs: dict[str, str], why: str) -> None:
    """With the reason for a person."""
    with pytest.raises(ValueError, match=why):
        protobuf_body(Texts("protobuf", text, needs))
