"""What the worker relies on in every codec: a click is decoded without loss, and anything else raises BadClick."""

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import BadClick
from stream.events import Click
from stream.mapping.parse import parse_mapping
from stream.mapping.shape import message_shape
from stream.mapping.written import written
from stream.wire import json
from stream.wire.codec import Codec
from stream.wire.json import JsonCodec

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_760_000_000_000
MOST_BYTES, AHEAD_MS = 4096, 60_000
REASONS = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE))


class PackedCodec:
    """A minimal MessagePack codec: the fields of Click by name."""

    def __init__(self, max_message_bytes: int, max_future_ms: int) -> None:
        self.most, self.ahead = max_message_bytes, max_future_ms
        self.left_out: Counter[str] = Counter()

    def decode(self, key: bytes | None, value: bytes | None, now_ms: int) -> Click:
        if not value:
            raise BadClick("empty_value", "no value")
        if len(value) > self.most:
            raise BadClick("too_large", f"{len(value)} bytes")
        try:
            click = msgspec.msgpack.decode(value, type=Click)
        except (msgspec.DecodeError, ValueError, RecursionError) as exc:
            raise BadClick("wrong_fields", str(exc)) from exc
        if not (click.item_id and click.event_type and click.timestamp > 0):
            raise BadClick("wrong_fields", "an empty field")
        if click.timestamp > now_ms + self.ahead:
            raise BadClick("future_timestamp", f"{click.timestamp}")
        return click

    def check_key(self, key: bytes | None, user_id: str) -> None:
        if key != user_id.encode():
            raise BadClick("key_is_not_user" if key else "empty_key", f"{key!r}")

    def user(self, key: bytes) -> bytes | None:
        return key or None

    def keep(self, record: object) -> object:
        return record


class Encode(Protocol):
    def __call__(self, event: object, /) -> bytes: ...


class Format(NamedTuple):
    codec: Codec
    encode: Encode


MAPPING = parse_mapping(
    """
    [fields]
    user_id = ["who.id", "who.anonymous"]
    item_id = ["what.all[1].id", "what.id"]
    timestamp = "at"
    event_type = "kind"
    session_id = "who.session"
    price = "what.price"
    quantity = "what.all[1].quantity"
    category = '"what.kind"'
    event_id = "id"
    consent = "who.marketing"
    [event_types]
    "Product Viewed" = "view"
    buy = "purchase"
    [events]
    drop = ["ping"]
    """,
    "contract",
)
FORMATS = {
    "json": Format(JsonCodec(MOST_BYTES, AHEAD_MS), json.encode),
    "mapped json": Format(
        JsonCodec(MOST_BYTES, AHEAD_MS, message_shape(MAPPING.of_topic())), partial(written, MAPPING)
    ),
    "messagepack": Format(PackedCodec(MOST_BYTES, AHEAD_MS), msgspec.msgpack.encode),
}

LETTERS = st.text(st.characters(categories=["Ll", "Lu", "Lo"]), min_size=1, max_size=64)
IDS = LETTERS.map(lambda text: f"x{text}")
AMOUNTS = st.none() | st.floats(0, 1e9)
CLICKS = st.builds(
    Click,
    user_id=IDS,
    item_id=IDS,
    timestamp=st.integers(1_000_000_000_000, NOW_MS + AHEAD_MS),
    event_type=st.sampled_from(["view", "cart", "purchase", "add to list"]),
    session_id=st.none() | IDS,
    price=AMOUNTS,
    quantity=AMOUNTS,
    category=st.none() | IDS,
    event_id=st.none() | IDS,
    consent=st.none() | st.booleans(),
)
CLICK = Click("user", "item", NOW_MS, "cart", "session", 9.5, 2.0, "shoes", "event", True)


@pytest.fixture(params=sorted(FORMATS), scope="module")
def form(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


def refused(form: Format, key: bytes | None, value: bytes | None) -> str | None:
    """The reason for which a message is refused, None if it is a click. Fails on any other error."""
    try:
        click = form.codec.decode(key, value, NOW_MS)
        form.codec.check_key(key, click.user_id)
    except BadClick as exc:
        return exc.reason
    assert key is not None
    assert click.user_id
    assert click.item_id
    assert click.event_type
    assert 0 < click.timestamp <= NOW_MS + AHEAD_MS
    return None


@given(click=CLICKS)
def test_a_click_comes_back_as_it_was_written(form: Format, click: Click) -> None:
    """Every field, in any script, at any time until the clock's tolerance."""
    assert form.codec.decode(click.user_id.encode(), form.encode(click), NOW_MS) == click


@given(key=st.none() | st.binary(max_size=20), value=st.none() | st.binary(max_size=200))
def test_any_bytes_are_a_click_or_a_bad_click(form: Format, key: bytes | None, value: bytes | None) -> None:
    """Nothing else is ever raised, and the reason is one that docs/events.md explains."""
    assert refused(form, key, value) in REASONS | {None}


@given(click=CLICKS, data=st.data())
def test_a_damaged_click_is_a_click_or_a_bad_click(form: Format, click: Click, data: st.DataObject) -> None:
    """A message that lost its end or has wrong bytes is refused, or read as the click that these bytes now are."""
    whole = form.encode(click)
    at = data.draw(st.integers(0, len(whole) - 1))
    middle = data.draw(st.binary(min_size=1, max_size=3))
    for damaged in (whole[:at], whole[:at] + middle + whole[at + len(middle) :]):
        assert refused(form, click.user_id.encode(), damaged) in REASONS | {None}


@pytest.mark.parametrize(
    ("reason", "key", "changes"),
    [
        ("empty_key", None, {}),
        ("empty_key", b"", {}),
        ("key_is_not_user", b"someone else", {}),
        ("key_is_not_user", b"\xff\xfe", {}),
        ("future_timestamp", b"user", {"timestamp": NOW_MS + AHEAD_MS + 1}),
        ("too_large", b"user", {"category": "x" * MOST_BYTES}),
        ("wrong_fields", b"user", {"item_id": ""}),
    ],
)
def test_a_click_that_cannot_be_used_is_refused(
    form: Format, reason: str, key: bytes | None, changes: dict[str, object]
) -> None:
    """In every format these messages are refused with the same reason."""
    assert refused(form, key, form.encode(msgspec.structs.replace(CLICK, **changes))) == reason


@pytest.mark.parametrize("value", [None, b""])
def test_a_message_without_a_value_is_refused(form: Format, value: bytes | None) -> None:
    """A tombstone in the clicks' topic is no click."""
    assert refused(form, b"user", value) == "empty_value"


def test_a_click_does_not_depend_on_the_messages_before_it(form: Format) -> None:
    """A bad message does not change how the codec decodes the next one."""
    key, value = b"user", form.encode(CLICK)
    before = form.codec.decode(key, value, NOW_MS)
    for bad in (value[:-3], b"\x00", None):
        assert refused(form, key, bad)
        assert form.codec.decode(key, value, NOW_MS) == before == CLICK


def test_a_time_is_judged_by_the_clock_that_is_given(form: Format) -> None:
    """A message from the future is a valid click later: a codec uses only the given time."""
    value = form.encode(msgspec.structs.replace(CLICK, timestamp=NOW_MS + AHEAD_MS + 5))
    assert refused(form, b"user", value) == "future_timestamp"
    assert form.codec.decode(b"user", value, NOW_MS + 5).timestamp == NOW_MS + AHEAD_MS + 5
