"""The fast path of a mapped codec changes the speed and nothing else."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.errors import BadClick, Dropped
from stream.events import Click
from stream.mapping.parse import parse_mapping
from stream.mapping.shape import message_shape, with_headers
from stream.wire.codec import MessageShape
from stream.wire.json import JsonCodec

NOW_MS = 1_760_000_000_000
NESTED = """
[fields]
user_id = ["who.id", "who.anonymous"]
item_id = ["what.id", "what.all[0].id", "what.all[1].id"]
timestamp = ["at", "sent"]
event_type = "kind"
session_id = "who.session"
price = "what.price"
quantity = "what.all[0].quantity"
category = "what.category"
event_id = "id"

[event_types]
"Product Viewed" = "view"
17 = "cart"

[events]
drop = ["ping"]
drop_without = ["item_id"]
"""
OTHERS = {
    "nested": NESTED,
    "with a unit": f'{NESTED}[time]\nunit = "ms"\n[defaults]\ncategory = "all"\nevent_type = "x"\n',
    "flat": '[fields]\nuser_id = "who"\nitem_id = "what"\ntimestamp = "at"\nsession_id = "who"\nprice = "price"\n',
    "not in one struct": '[fields]\nuser_id = "who"\nitem_id = ["what", "what.id"]\ntimestamp = "at"\n',
    "a type renamed to a float in text": NESTED.replace('"view"', '"2.0"'),
    "quoted": "[fields]\nuser_id = '\"who\\\\\".id'\nitem_id = 'what[0][0]'\ntimestamp = 'at'\n",
}
USUAL = [
    None,
    "",
    "u1",
    "i1",
    17,
    "17.0",
    17.0,
    2.5,
    "ping",
    "Product Viewed",
    NOW_MS,
    NOW_MS / 1000,
    "2025-10-01T00:00:00Z",
]
ODD = [
    True,
    [],
    {},
    [1],
    "x" * 300,
    2**70,
    -1,
    "1e400",
    float("nan"),
    float("inf"),
    "\ud83d",
    "2025-13-01T00:00:00.250Z",
]
VALUES = st.sampled_from(USUAL) | st.sampled_from(ODD)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES,
        "anonymous": VALUES,
        "session": VALUES,
        "price": VALUES,
        "category": VALUES,
        "all": st.lists(st.fixed_dictionaries({}, optional={"id": VALUES, "quantity": VALUES}) | VALUES, max_size=3)
        | VALUES,
    },
)
PARTS = {
    "who": OBJECTS | VALUES,
    "what": OBJECTS | VALUES | st.lists(st.lists(VALUES, max_size=2), max_size=2),
    "at": st.just(NOW_MS) | VALUES,
    "sent": VALUES,
    "kind": VALUES,
    "id": VALUES,
    "price": VALUES,
    "other": VALUES,
}
CLICKS = st.sampled_from(
    [
        {"who": {"id": "u1"}, "what": {"id": "i1"}, "at": NOW_MS, "kind": "Product Viewed"},
        {"who": {"anonymous": 17}, "what": {"all": [{"id": "i1"}]}, "sent": "2025-10-01T00:00:00Z"},
        {"who": "u1", "what": "i1", "at": NOW_MS, "price": 9.5},
    ]
)
MESSAGES = st.builds(
    lambda click, parts: {**click, **parts},
    CLICKS | st.just({}),
    st.dictionaries(st.sampled_from(sorted(PARTS)), st.none(), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({name: PARTS[name] for name in names})
    ),
)


def never(value: bytes) -> Any:
    raise ValueError("always the other path")


def outcome(codec: JsonCodec, value: bytes) -> object:
    """The click, or the class and reason of its refusal, with the fields that were left out."""
    codec.left_out.clear()
    try:
        found: object = codec.decode(None, value, NOW_MS)
    except BadClick as exc:
        found = (type(exc), exc.reason, exc.detail)
    return found, dict(codec.left_out)


@pytest.mark.parametrize("name", OTHERS)
@settings(max_examples=300)
@given(message=MESSAGES)
@example(message={"who": {"id": "u1"}, "what": {"id": "i1", "price": -1}, "at": NOW_MS})
@example(message={"who": {"id": "u1"}, "what": {"id": "i1"}, "at": 17})
@example(message={"who": {"id": "u1"}, "what": {"id": "i1"}, "at": NOW_MS, "kind": "Product Viewed"})
@example(message={"who": {"id": "u1"}, "what": {"id": "i1", "price": 9.5}, "at": NOW_MS})
@example(message={"who": {"id": None, "anonymous": "u1"}, "what": {"all": [{"id": "i1"}]}, "at": "", "sent": NOW_MS})
def test_both_paths_read_every_message_alike(name: str, message: dict[str, Any]) -> None:
    """The same click, the same refusal or the same leaving out, and the same fields that are left out."""
    shape = message_shape(parse_mapping(OTHERS[name], "x").of_topic())
    value = json.dumps(message).encode()
    fast, slow = JsonCodec(4096, 1000, shape), JsonCodec(4096, 1000, MessageShape(never, shape.given, shape.names))
    assert outcome(fast, value) == outcome(slow, value)


@pytest.mark.parametrize(
    ("message", "click"),
    [
        (
            {
                "who": {"id": "u1", "session": "s"},
                "what": {"id": 17, "price": 2, "category": "c"},
                "at": NOW_MS,
                "kind": 17,
                "id": "e",
            },
            Click("u1", "17", NOW_MS, "cart", "s", 2.0, None, "c", "e"),
        ),
        (
            {
                "who": {"anonymous": "u1"},
                "what": {"all": [{"id": "i1", "quantity": 2}]},
                "at": "2025-10-09T08:53:20.500Z",
                "kind": "Product Viewed",
            },
            Click("u1", "i1", 1_760_000_000_500, "view", quantity=2.0),
        ),
    ],
)
def test_usual_messages_take_the_fast_path(message: dict[str, Any], click: Click) -> None:
    """Whole numbers as ids, an alternative path, a first element of a list, and ISO 8601 need no second reading."""

    def not_again(value: bytes) -> Any:
        raise AssertionError("read again")

    shape = message_shape(parse_mapping(NESTED, "x").of_topic())
    codec = JsonCodec(4096, 1000, MessageShape(shape.plain, not_again, shape.names))
    assert codec.decode(b"u1", json.dumps(message).encode(), NOW_MS) == click


def test_what_is_left_out_needs_no_key() -> None:
    """Views of pages often have none, and they are no dead letters."""
    codec = JsonCodec(4096, 1000, message_shape(parse_mapping(NESTED, "x").of_topic()))
    for message in ({"kind": "ping"}, {"kind": "seen", "what": {"id": ""}}, {"kind": "seen", "what": 3}):
        with pytest.raises(Dropped):
            codec.decode(None, json.dumps(message).encode(), NOW_MS)


def test_a_dead_letter_names_the_paths_of_a_field() -> None:
    """Who sends the messages does not know Eddy's names. A field with the same name as its path has only the name."""
    codec = JsonCodec(4096, 1000, message_shape(parse_mapping(NESTED, "x").of_topic()))
    event = {"who": {"id": ""}, "what": {"id": "i"}, "at": NOW_MS}
    with pytest.raises(BadClick, match=re.escape("user_id (who.id or who.anonymous) is missing or empty")):
        codec.decode(b"u1", json.dumps(event).encode(), NOW_MS)
    with pytest.raises(BadClick, match=re.escape("timestamp (at or sent) 'now' is ")):
        codec.decode(b"u1", json.dumps({**event, "who": {"id": "u1"}, "at": "now"}).encode(), NOW_MS)
    with pytest.raises(
        BadClick, match=re.escape("but user_id (who.id or who.anonymous) 'u1'; key messages by user_id")
    ):
        codec.check_key(b"other", "u1")
    for key in (b"session-1", b""):
        with pytest.raises(BadClick, match=re.escape("or set rekey = true in [key] of the mapping (docs/mapping.md)")):
            codec.check_key(key, "u1")
    flat = '[fields]\nuser_id = "user_id"\nitem_id = "item_id"\ntimestamp = "at"\n'
    with pytest.raises(BadClick, match=re.escape("wrong_fields: item_id is missing or empty")):
        JsonCodec(4096, 1000, message_shape(parse_mapping(flat, "x").of_topic())).decode(
            b"u", b'{"user_id": "u", "at": 1760000000000}', NOW_MS
        )


BINARY = """
[fields]
user_id = "who"
item_id = "what"
timestamp = "$headers.ce_time"
event_type = ["kind", "$headers.ce_type"]
"""


@given(
    st.dictionaries(st.text(max_size=3), VALUES, max_size=3),
    st.dictionaries(st.text(max_size=3), st.text(min_size=1, max_size=3), min_size=1),
    st.sampled_from(["", " ", "\n\t "]),
)
def test_headers_become_a_field_of_the_message(message: dict[str, Any], headers: dict[str, str], blank: str) -> None:
    """And the message is otherwise the same, whatever blanks a JSON object may have at its end."""
    value = f"{blank}{json.dumps(message)[:-1]}{blank}}}{blank}".encode()
    whole = with_headers(value, [(name, text.encode()) for name, text in headers.items()], None)
    assert whole is not None
    assert repr(json.loads(whole)) == repr(json.loads(value) | {"$headers": headers})


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (None, [("ce_type", b"view")]),
        (b"", [("ce_type", b"view")]),
        (b"[1]", [("ce_type", b"view")]),
        (b'{"who": 1}', []),
        (b'{"who": 1}', None),
        (b'{"who": 1} ', [("other", b"view"), ("ce_type", None), ("ce_time", b"")]),
    ],
)
def test_a_message_without_such_headers_stays_as_it_is(value: bytes | None, headers: Any) -> None:
    """Byte for byte: a request has no value."""
    assert with_headers(value, headers, ("ce_type", "ce_time")) == value


def test_a_click_is_read_from_the_value_and_the_headers_of_a_message() -> None:
    """A header that the mapping does not read makes no message too large."""
    codec = JsonCodec(1_000, 0, message_shape(parse_mapping(BINARY, "shop.toml").of_topic()))
    assert codec.headers == ("ce_time", "ce_type")
    headers = [("ce_time", b"2025-03-04T09:00:10.250Z"), ("ce_type", b"cart"), ("trace", b"x" * 2_000)]
    read = [
        codec.decode(None, with_headers(value, headers, codec.headers), NOW_MS)
        for value in (b'{"who": "u", "what": "i"}', b'{"who": "u", "what": "i", "kind": "view"}')
    ]
    assert read == [Click("u", "i", 1_741_078_810_250, kind) for kind in ("cart", "view")]
    with pytest.raises(BadClick, match=r"timestamp \(\$headers.ce_time\)"):
        codec.decode(None, with_headers(b'{"who": "u", "what": "i"}', headers[1:], codec.headers), NOW_MS)


def test_a_header_that_is_no_text_is_as_a_value_that_is_not_usable() -> None:
    """Counted in an optional field, a dead letter in another one, and not taken for a header that is not there."""
    codec = JsonCodec(1_000, 0, message_shape(parse_mapping(BINARY, "shop.toml").of_topic()))
    value, time, broken = b'{"who": "u", "what": "i"}', ("ce_time", b"2025-03-04T09:00:10.250Z"), b"\xff\xfe"
    whole = with_headers(value, [time, ("ce_type", broken)], codec.headers)
    assert codec.decode(None, whole, NOW_MS).event_type == "view"
    assert codec.left_out == {"event_type": 1}
    with pytest.raises(BadClick, match=r"not UTF-8") as raised:
        codec.decode(None, with_headers(value, [("ce_time", broken)], codec.headers), NOW_MS)
    assert raised.value.reason == "bad_timestamp"
    assert with_headers(value, [("raw", broken)], None) == value
