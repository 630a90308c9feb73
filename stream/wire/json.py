"""JSON bytes -> Click, and events -> JSON bytes.

A message is a click only if every field has its type, the ids are short and not empty, the key is the user, and the
time is believable. Anything else raises BadClick with a fixed reason, and nothing but BadClick is ever raised: one
message can neither stop the stream nor pass half-read.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from stream.errors import BadClick
from stream.events import Click

LONGEST_ID = 256
LONGEST_WORD = 64
Id = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)] | int
Word = Annotated[str, Meta(min_length=1, max_length=LONGEST_WORD)]

LATEST = 1e15
"""Above it no unit gives a time worth reading (ms: the year 33,658), and arithmetic on it could overflow."""

SECONDS_BELOW = 100_000_000_000
"""A timestamp under this is in seconds: as ms it would lie before March 1973, as seconds after the year 5138."""


class _Message(Struct, gc=False):
    """A click as producers write it: ids may be numbers, the time seconds or ms since the epoch."""

    user_id: Id
    item_id: Id
    timestamp: int | float
    event_type: Word = "view"
    session_id: Id | None = None
    price: float | None = None
    quantity: float | None = None
    category: Annotated[str, Meta(max_length=256)] | None = None


class JsonCodec:
    """Decodes clicks. `max_message_bytes` and `max_future_ms` bound what is believed (see Settings)."""

    def __init__(self, max_message_bytes: int, max_future_ms: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_future_ms = max_future_ms
        self._decode = msgspec.json.Decoder(_Message).decode

    def decode(self, key: bytes | None, value: bytes | None, now_ms: int) -> Click:
        """The click in one Kafka message.

        key     must be the user id in UTF-8: the key chooses the partition, and a user's state lives in one
        now_ms  the worker's clock, ms since the epoch
        Raises BadClick and nothing else.
        """
        if not value:
            raise BadClick("empty_value", "the message has no value; a click is a JSON object")
        if len(value) > self._max_message_bytes:
            raise BadClick("too_large", f"{len(value)} bytes; at most {self._max_message_bytes} are read")
        if not key:
            raise BadClick(
                "empty_key", "the message has no key; key it by user_id so that a user stays in one partition"
            )
        try:
            message = self._decode(value)
            user_id = str(message.user_id)
            item_id = str(message.item_id)
            is_user = key == user_id.encode()
        except msgspec.ValidationError as exc:
            raise BadClick("wrong_fields", str(exc)) from exc
        except UnicodeError as exc:
            raise BadClick("not_utf8", str(exc)) from exc
        except (msgspec.DecodeError, RecursionError, ValueError) as exc:
            raise BadClick("not_json", str(exc)) from exc
        if not is_user:
            raise BadClick("key_is_not_user", f"key {key[:64]!r} but user_id {user_id[:64]!r}; key messages by user_id")
        if len(user_id) > LONGEST_ID or len(item_id) > LONGEST_ID:
            raise BadClick("wrong_fields", f"a numeric id of more than {LONGEST_ID} digits")
        return Click(
            user_id=user_id,
            item_id=item_id,
            timestamp=self._believable_ms(message.timestamp, now_ms),
            event_type=message.event_type,
            session_id=None if message.session_id is None else str(message.session_id),
            price=message.price,
            quantity=message.quantity,
            category=message.category,
        )

    def _believable_ms(self, timestamp: float, now_ms: int) -> int:
        """Integer ms since the epoch, or BadClick: before 1970, or beyond the clock (also a unit finer than ms)."""
        if timestamp > LATEST:
            raise BadClick("future_timestamp", "far beyond any time in seconds or ms; is the unit finer than ms?")
        ms = round(timestamp * 1000 if timestamp < SECONDS_BELOW else timestamp) if timestamp > 0 else 0
        if ms <= 0:
            raise BadClick("bad_timestamp", "not a time after 1970 in seconds or ms")
        if ms > now_ms + self._max_future_ms:
            raise BadClick("future_timestamp", f"{timestamp} lies {(ms - now_ms) / 1000:.0f} s ahead of the clock")
        return ms


encode = msgspec.json.Encoder().encode
"""Any event of stream.events -> its JSON bytes."""
