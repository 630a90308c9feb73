"""The copy of a message has the user id as key, and is otherwise the message."""

import json
from typing import Any

import pytest

from stream.rekey.copy import copied
from stream.wire.json import JsonCodec
from stream.wire.requests import FORGET_HEADER

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
