"""The content of a dead letter, and its Kafka key."""

from base64 import b64decode
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import BadClick
from stream.events import DeadLetter, Origin
from stream.wire.dead_letter import LONGEST_DETAIL, LONGEST_KEY, dead_letter

ORIGIN = Origin("clicks", 3, 12)


def record(key: bytes | None, value: bytes | None) -> Any:
    return SimpleNamespace(key=key, value=value, timestamp=1_760_000_000_123)


def letter(key: bytes | None, value: bytes | None, detail: str = "", most: int = 100_000) -> DeadLetter:
    _, written = dead_letter(ORIGIN, record(key, value), BadClick("not_json", detail), most)
    return msgspec.json.decode(written, type=DeadLetter)


@settings(max_examples=50)
@given(
    key=st.none() | st.binary(max_size=80),
    value=st.none() | st.binary(max_size=200),
    detail=st.sampled_from(["", "not JSON", '\u00fc "x"']),
)
def test_a_letter_gives_back_the_message_byte_for_byte(key: bytes | None, value: bytes | None, detail: str) -> None:
    """For any bytes, the message can be restored from the letter, with its topic, partition and offset."""
    found = letter(key, value, detail)
    assert [None if part is None else b64decode(part) for part in (found.key, found.value)] == [key, value]
    assert (found.id, found.topic, found.partition, found.offset) == ("clicks-3-12", "clicks", 3, 12)
    assert (found.reason, found.detail, found.timestamp) == ("not_json", detail, 1_760_000_000_123)
    assert (found.key_bytes, found.value_bytes) == (len(key or b""), len(value or b""))


def test_a_tombstone_differs_from_an_empty_value() -> None:
    """None stays null in the letter and an empty value stays an empty string."""
    assert (letter(None, b"").key, letter(None, b"").value) == (None, "")
    assert (letter(b"", None).key, letter(b"", None).value) == ("", None)


@pytest.mark.parametrize(("length", "kept"), [(LONGEST_KEY, True), (LONGEST_KEY + 1, False)])
def test_a_key_that_is_too_long_for_a_user_is_no_kafka_key(length: int, kept: bool) -> None:
    """A shortened key could be the id of a different user."""
    key = b"k" * length
    kafka_key, _ = dead_letter(ORIGIN, record(key, b"{}"), BadClick("too_large", ""), 100_000)
    assert kafka_key == (key if kept else None)


def test_a_long_detail_is_cut() -> None:
    """A decoder's message that repeats the value is shortened, so that the value has enough bytes."""
    assert letter(b"u", b"{}", "x" * 5_000).detail == "x" * LONGEST_DETAIL


def test_a_short_value_leaves_more_bytes_for_a_long_key() -> None:
    """If a message is nearly only a key, the letter is nearly only that key."""
    found = letter(b"k" * 200_000, b"{}", most=20_000)
    assert b64decode(found.value or "") == b"{}"
    assert len(b64decode(found.key or "")) > 0.7 * 20_000
    assert found.key_bytes == 200_000


def test_a_long_value_leaves_a_tenth_for_the_key() -> None:
    """The user stays readable for any length of the value."""
    found = letter(b"k" * 200_000, b"v" * 200_000, most=20_000)
    assert 1_000 < len(b64decode(found.key or "")) < 2_000
    assert len(b64decode(found.value or "")) > 10_000


def test_a_detail_with_any_characters_is_valid_json() -> None:
    """Control characters and quotes of a producer's text are escaped, not copied."""
    detail = 'line\nbreak "quote" \u0001 \U0001f4a5'
    assert letter(b"u", b"{}", detail).detail == detail
