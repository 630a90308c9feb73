"""The copy of a message has the user id as key, and is otherwise the message."""

import json
from typing import Any

import pytest

from stream.mapping.parse import parse_mapping
from stream.mapping.shape import anonymous_ids, message_shape
from stream.rekey.copy import copied
from stream.wire.json import JsonCodec
from stream.wire.requests import CARRIED_HEADER, FORGET_HEADER, JOIN_HEADER

NOW_MS = 1_760_000_000_000
CODEC = JsonCodec(1_000, 1_000)
CLICK = json.dumps({"user_id": 17, "item_id": "a", "timestamp": NOW_MS}).encode()
HEADERS: list[tuple[str, bytes | None]] = [("trace", b"1"), ("empty", None)]


class Message:
    """A message of confluent-kafka."""

    def __init__(self, key: bytes | None, value: bytes | None, headers: Any = None, stamp_ms: int = NOW_MS) -> None:
        self.key, self.value, self.headers = (lambda: key), (lambda: value), (lambda: headers)
        self.timestamp = lambda: (1, stamp_ms)


@pytest.mark.parametrize("key", [None, b"", b"session", b'"17"', (17).to_bytes(4, "big"), b"\0\0\0\0\1\x0417", b"17.0"])
def test_a_click_is_keyed_by_its_user_whatever_its_key_was(key: bytes | None) -> None:
    """As text, which the worker takes for the same user. Value, timestamp and headers stay as they are."""
    assert copied(Message(key, CLICK, HEADERS), CODEC, "by-user", 10_000) == (
        "by-user", b"17", CLICK, None, NOW_MS, HEADERS,
    )  # fmt: skip
    CODEC.check_key(b"17", "17")


def test_a_click_from_the_future_is_keyed_by_its_user() -> None:
    """It may be a valid click when it is read from the copies; under another key it would be a dead letter then."""
    late = CLICK.replace(str(NOW_MS).encode(), b"9999999999999")
    assert copied(Message(None, late), CODEC, "by-user", 10_000).key == b"17"


@pytest.mark.parametrize("value", [b"{", b"", b"[]", b'{"user_id": 17}', b"x" * 2_000, None])
@pytest.mark.parametrize("key", [None, b"k", b"\xff"])
def test_what_is_no_click_stays_as_it_is(key: bytes | None, value: bytes | None) -> None:
    """The worker that reads it makes the dead letter, with the reason that it would have without re-keying."""
    assert copied(Message(key, value), CODEC, "by-user", 10_000)[1:3] == (key, value)


def test_a_request_to_forget_goes_where_the_clicks_of_the_user_go() -> None:
    """Also if the id is in another form; the header that makes it a request is kept."""
    request = copied(Message(b"17.0", None, [(FORGET_HEADER, b"")]), CODEC, "by-user", 10_000)
    assert (request.key, request.value, request.headers) == (b"17", None, [(FORGET_HEADER, b"")])


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"k", b"x" * 20_000, None),
        (b"k" * 20_000, CLICK, None),
        (b"k" * 20_000, b"{", None),
        (None, CLICK, [("h", b"x" * 20_000)]),
    ],
)
def test_no_message_is_too_large_for_the_topic(key: bytes | None, value: bytes, headers: Any) -> None:
    """Kafka would refuse the transaction again and again. What is left of the value has the same dead letter."""
    copy = copied(Message(key, value, headers), CODEC, "by-user", 10_000)
    assert len(copy.key or b"") + len(copy.value or b"") <= 10_000
    assert copy.value == value[: len(copy.value or b"")]
    assert len(copy.value or b"") > 1_000 or copy.value == value  # longer than the codec's limit: too_large
    assert copy.headers is None


def test_a_time_that_kafka_does_not_know_is_that_of_the_copy() -> None:
    """A message of an old format has -1."""
    assert copied(Message(None, CLICK, None, -1), CODEC, "by-user", 10_000).timestamp == 0


BOTH = parse_mapping(
    """
[fields]
user_id = "user"
anonymous_id = ["visitor", "device"]
item_id = "item"
timestamp = "at"
[key]
rekey = true
""",
    "shop.toml",
).of_topic()
OF_BOTH = JsonCodec(1_000, 1_000, message_shape(BOTH))


def of_both(message: Message, most_bytes: int = 10_000) -> Any:
    return copied(message, OF_BOTH, "by-user", most_bytes, anonymous_ids(BOTH))


def both(**ids: Any) -> bytes:
    return json.dumps({"item": "i1", "at": NOW_MS} | ids).encode()


@pytest.mark.parametrize(
    ("ids", "key", "joins"),
    [
        ({"user": "u", "visitor": "a"}, b"a", b"u"),
        ({"user": 17.0, "device": 3}, b"3", b"17"),
        ({"user": "u", "visitor": "", "device": "d"}, b"d", b"u"),
        ({"user": "u"}, b"u", None),
        ({"visitor": "a"}, b"a", None),
        ({"user": "7", "visitor": 7}, b"7", None),
        ({"user": "u", "visitor": [1]}, b"u", None),
        ({"user": "u", "visitor": "x" * 5_000}, b"k", None),  # too large for a click
        ({"user": "u", "visitor": "x" * 500}, b"u", None),
        ({"user": [], "visitor": "a"}, b"k", None),
    ],
)
def test_a_click_with_both_ids_goes_to_the_anonymous_one_first(ids: Any, key: bytes, joins: bytes | None) -> None:
    """With the user's id as a header. Ids that are equal, or that no click could have, are no two ids."""
    copy = of_both(Message(b"k", both(**ids), HEADERS))
    assert (copy.key, copy.value[:1_000]) == (key, both(**ids)[:1_000])
    assert copy.headers == [*HEADERS, *([] if joins is None else [(JOIN_HEADER, joins)])]


def test_a_producer_cannot_carry_a_state() -> None:
    """The headers that only the workers write are not copied."""
    theirs = [(JOIN_HEADER, b"v"), *HEADERS, (CARRIED_HEADER, b"x")]
    assert of_both(Message(b"k", both(user="u"), theirs)).headers == HEADERS
    assert of_both(Message(b"k", None, [(CARRIED_HEADER, b"x")])).headers is None
    assert of_both(Message(None, both(user="u", visitor="a"), theirs)).headers == [*HEADERS, (JOIN_HEADER, b"u")]


def test_a_click_with_both_ids_keeps_them_if_its_headers_are_too_large() -> None:
    copy = of_both(Message(None, both(user="u", visitor="a"), [("h", b"x" * 20_000)]))
    assert (copy.key, copy.headers) == (b"a", [(JOIN_HEADER, b"u")])


def test_the_anonymous_id_is_found_in_every_message_that_is_a_click() -> None:
    """Also where only the slow path can read the message, and where it is not JSON."""
    value = b'{"user": "u", "visitor": "a", "item": "i1", "at": %d, "price": NaN}' % NOW_MS
    assert of_both(Message(None, value)).key == b"a"
    assert anonymous_ids(BOTH, lambda value: {"visitor": value.decode()})(b"a") == "a"


def test_headers_that_only_eddy_writes_are_copied_for_nobody() -> None:
    """Nor where no state goes over: another group may read the same copies, and carry its own."""
    copy = copied(
        Message(b"k", CLICK, [*HEADERS, (JOIN_HEADER, b"x"), (CARRIED_HEADER, b"x")]), CODEC, "by-user", 9_999
    )
    assert copy.headers == HEADERS


def test_what_is_no_click_keeps_the_form_of_its_key() -> None:
    """The dead letter has it."""
    assert copied(Message(b"17.0", b"{"), CODEC, "by-user", 9_999).key == b"17.0"
