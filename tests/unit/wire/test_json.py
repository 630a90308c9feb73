"""Which messages are clicks; for all other messages the decoder raises only BadClick."""

import contextlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import BadClick
from stream.events import Click
from stream.wire.json import JsonCodec, encode, loose_object

NOW_MS = 1_700_000_000_000
CODEC = JsonCodec(max_message_bytes=4096, max_future_ms=3_600_000)


def decode(message: object, key: bytes | None = b"u1") -> Click:
    return CODEC.decode(key, json.dumps(message).encode(), NOW_MS)


def click(**changes: object) -> dict[str, object]:
    return {"user_id": "u1", "item_id": "i1", "event_type": "view", "timestamp": NOW_MS, **changes}


def test_a_complete_click_is_read_as_it_was_written() -> None:
    """Every documented field is read."""
    got = decode(click(session_id="s", price=9.5, quantity=2, category="shoes"))
    assert got == Click("u1", "i1", NOW_MS, "view", "s", 9.5, 2.0, "shoes")


def test_numeric_ids_become_strings_and_seconds_become_ms() -> None:
    """Producers may send numbers as ids and seconds as time."""
    got = decode(click(user_id=7, item_id=12, timestamp=NOW_MS // 1000), key=b"7")
    assert (got.user_id, got.item_id, got.timestamp) == ("7", "12", NOW_MS)


def test_an_encoded_click_decodes_to_itself() -> None:
    """The worker reads exactly the clicks that `eddy replay` writes."""
    original = Click("u1", "i1", NOW_MS, "cart", "s", 1.5, 1.0, None)
    assert CODEC.decode(b"u1", encode(original), NOW_MS) == original


@pytest.mark.parametrize(
    ("reason", "key", "value"),
    [
        ("empty_value", b"u1", None),
        ("empty_value", b"u1", b""),
        ("empty_key", None, json.dumps(click()).encode()),
        ("empty_key", b"", json.dumps(click()).encode()),
        ("key_is_not_user", b"u2", json.dumps(click()).encode()),
        ("not_json", b"u1", json.dumps(click()).encode()[:-5]),
        ("wrong_fields", b"u1", b'{"user_id": "u1", "item_id": "i", "timestamp": NaN}'),
        ("wrong_fields", b"u1", b'{"user_id": "u1", "item_id": "half \\ud83d", "timestamp": 1700000000}'),
        ("not_json", b"u1", json.dumps(click()).encode("utf-16")),
        ("not_json", b"u1", b'{"x": ' + b"[" * 3000),
        ("not_utf8", b"u1", b'{"user_id": "u1", "item_id": "\xff\xfe", "timestamp": 1700000000}'),
        ("too_large", b"u1", json.dumps(click(item_id="x" * 5000)).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id="x" * 300)).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id="")).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id=None)).encode()),
        ("wrong_fields", b"u1", json.dumps(click(user_id=["u1"])).encode()),
        ("wrong_fields", b"u1", json.dumps(click(user_id=True)).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id=1.5)).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id=1234567890123456789.0)).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id="1.2345678901234568e+18")).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id="1e+18")).encode()),
        ("wrong_fields", b"u1", json.dumps(click(timestamp=None)).encode()),
        ("wrong_fields", b"u1", json.dumps({"user_id": "u1", "item_id": "i1"}).encode()),
        ("wrong_fields", b"u1", b'"click"'),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=0)).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp="yesterday")).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp="14.11.2023")).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=True)).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=[NOW_MS])).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=45627.5)).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=5_000)).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=133_783_776_000_000_000)).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=-5)).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=-1e308)).encode()),
        ("bad_timestamp", b"u1", json.dumps(click(timestamp=-int("9" * 400))).encode()),
        ("future_timestamp", b"u1", json.dumps(click(timestamp=int("9" * 400))).encode()),
        ("future_timestamp", b"u1", json.dumps(click(timestamp=1e308)).encode()),
        ("wrong_fields", b"u1", json.dumps(click(item_id=int("9" * 400))).encode()),
        ("future_timestamp", b"u1", json.dumps(click(timestamp=NOW_MS + 3_600_001)).encode()),
        ("future_timestamp", b"u1", json.dumps(click(timestamp=NOW_MS * 1000 + 3_600_001_000)).encode()),
        ("future_timestamp", b"u1", json.dumps(click(timestamp="2100-01-01")).encode()),
    ],
)
def test_a_bad_message_is_named_by_its_reason(reason: str, key: bytes | None, value: bytes | None) -> None:
    """Each kind of error has its own reason in the dead letters."""
    with pytest.raises(BadClick) as caught:
        CODEC.check_key(key, CODEC.decode(key, value, NOW_MS).user_id)
    assert caught.value.reason == reason


def test_a_message_of_thousands_of_levels_says_so() -> None:
    """And not what Python calls it."""
    value = json.dumps(click()).encode()[:-1] + b', "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    with pytest.raises(BadClick, match="inside each other too deeply; at least 900 levels are read"):
        JsonCodec(65_536, 3_600_000).decode(b"u1", value, NOW_MS)


@pytest.mark.parametrize(
    "key", [None, b"", b"7f0c", b'"17"', (17).to_bytes(4, "big"), b"\0\0\0\0\1\x0417", b"\xff\xfe"]
)
def test_the_user_is_taken_from_the_value_whatever_the_key_is(key: bytes | None) -> None:
    """Without a key, of a session, and as the key serializers of JSON, of integers and of Avro write it."""
    assert decode(click(user_id=17), key).user_id == "17"
    with pytest.raises(BadClick):
        CODEC.check_key(key, "17")


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [
        ("event_type", None, "view"),
        ("event_type", "", "view"),
        ("event_type", 3, "3"),
        ("session_id", "", None),
        ("session_id", 12.0, "12"),
        ("session_id", "12.0", "12"),
        ("price", "49.99", 49.99),
        ("price", " 5 ", 5.0),
        ("price", "", None),
        ("price", float("nan"), None),
        ("quantity", "2", 2.0),
        ("category", 2053013555631882655, "2053013555631882655"),
        ("category", "", None),
        ("consent", True, True),
        ("consent", False, False),
        ("consent", 1, True),
        ("consent", 0.0, False),
        ("consent", " Yes ", True),
        ("consent", "FALSE", False),
        ("consent", "", None),
        ("consent", None, None),
    ],
)
def test_an_optional_field_is_read_as_shops_send_it(field: str, value: object, taken: object) -> None:
    """Numbers may be text, ids may be numbers, and a missing value may be null or absent."""
    codec = JsonCodec(4096, 3_600_000)
    got = codec.decode(b"u1", json.dumps(click(**{field: value})).encode(), NOW_MS)
    assert getattr(got, field) == taken
    assert not codec.left_out


@pytest.mark.parametrize(
    ("field", "raw", "taken"),
    [
        ("event_type", b'"' + b"x" * 65 + b'"', "view"),
        ("event_type", b'["view"]', "view"),
        ("session_id", b"true", None),
        ("session_id", b'"' + b"x" * 257 + b'"', None),
        ("price", b'"49,99"', None),
        ("price", b'"49.99 EUR"', None),
        ("price", b'"NaN"', None),
        ("price", b"-1", None),
        ("price", b"1e400", None),
        ("price", b"9" * 5_000, None),
        ("quantity", b'{"of": 2}', None),
        ("category", b'["a", "b"]', None),
        ("category", b'"half an emoji \\ud83d"', None),
        ("category", b"2053013555631882655.0", None),
        ("category", b"9" * 300, None),
        ("event_id", b"[7]", None),
        ("consent", b"2", None),
        ("consent", b'"maybe"', None),
        ("consent", b'{"email": true}', None),
        ("event_id", b'"' + b"x" * 257 + b'"', None),
    ],
)
def test_an_optional_field_that_is_not_usable_is_left_out_and_counted(field: str, raw: bytes, taken: object) -> None:
    """Only this field is left out; the click and its other fields are valid."""
    codec = JsonCodec(8192, 3_600_000)
    whole = json.dumps(click(**{field: "HERE"})).encode().replace(b'"HERE"', raw)
    got = codec.decode(b"u1", whole, NOW_MS)
    assert getattr(got, field) == taken
    assert (got.user_id, got.item_id, got.timestamp) == ("u1", "i1", NOW_MS)
    assert codec.left_out == {field: 1}


def test_a_field_that_is_left_out_is_counted_once() -> None:
    """It is counted once also if the message is decoded a second time because other text looks like a float."""
    codec = JsonCodec(4096, 3_600_000)
    codec.decode(b"u1", json.dumps(click(price="cheap", category="v1.5")).encode(), NOW_MS)
    assert codec.left_out == {"price": 1}


@pytest.mark.parametrize(
    ("user", "key"), [(17, b"17"), (17.0, b"17"), (17.0, b"17.0"), ("17.0", b"17.0"), ("17.0", b"17"), ("007", b"007")]
)
def test_a_number_written_as_a_float_is_the_integer_it_was(user: object, key: bytes) -> None:
    """pandas and JSON libraries write 17 as 17.0; this is the same user, in the message and in its key."""
    got = CODEC.decode(key, json.dumps(click(user_id=user, item_id=user)).encode(), NOW_MS)
    assert got.user_id == got.item_id == key.decode().removesuffix(".0")
    CODEC.check_key(key, got.user_id)


@given(st.binary(max_size=300) | st.none(), st.binary(max_size=20) | st.none())
def test_no_bytes_raise_anything_but_bad_click(value: bytes | None, key: bytes | None) -> None:
    """No message can stop the stream."""
    with contextlib.suppress(BadClick):
        CODEC.decode(key, value, NOW_MS)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"user_id": ANY, "item_id": ANY, "timestamp": ANY},
        optional={
            name: ANY | st.just("\ud800") for name in ("event_type", "session_id", "price", "quantity", "category")
        },
    )
)
def test_no_field_values_raise_anything_but_bad_click(message: dict[str, object]) -> None:
    """The same is true for any value of a known field; a valid click has a plausible time and valid ids."""
    key = str(message["user_id"]).encode(errors="surrogatepass")
    try:
        got = CODEC.decode(key, json.dumps(message).encode(), NOW_MS)
    except BadClick:
        return
    assert 0 < got.timestamp <= NOW_MS + 3_600_000
    assert got.user_id
    assert got.item_id


def test_a_byte_order_mark_is_no_error() -> None:
    """Some .NET and PowerShell producers write one."""
    assert CODEC.decode(b"u1", b"\xef\xbb\xbf" + json.dumps(click()).encode(), NOW_MS) == decode(click())


@pytest.mark.parametrize(
    "text", ["[" + '{"a": []}, ' * 100_000 + "{}]", '"' + "\\u0000" * 100_000 + '"', " \n[" + "0," * 200_000 + "0]"]
)
def test_what_is_no_object_is_refused_before_it_is_decoded(text: str) -> None:
    """A list takes ten times the memory of its text, and a log can be one of gigabytes."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a JSON object"):
            loose_object(text)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
    finally:
        tracemalloc.stop()
