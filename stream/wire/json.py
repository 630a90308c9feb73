"""JSON bytes -> Click, and events -> JSON bytes.

A message is a click if its user, item and time can be read (fields.py), its key is the user and its time is believable.
Optional fields that are not usable are left out of the click and counted. Anything else raises BadClick with a fixed
reason, and nothing but BadClick is ever raised: one message can neither stop the stream nor pass half-read.
"""

import json
from collections import Counter
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from stream.errors import BadClick
from stream.events import Click
from stream.wire.fields import (
    DEFAULT_EVENT,
    DIGITS,
    FIRST_CLICK_MS,
    LONGEST_ID,
    LONGEST_WORD,
    Unusable,
    number,
    time_ms,
    word,
)

SHOWN = 64
"""Characters of a value that a detail shows."""

UNDECODABLE = (msgspec.DecodeError, RecursionError, ValueError)
"""What msgspec raises on bytes that are no JSON, nested too deeply, not UTF-8, or a number beyond its range."""

POINT, ESCAPE = b".\\"
"""As integers: searching bytes for one is 20 times faster than for bytes of length 1 (22 and 430 ns in 166 bytes)."""

Text = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Amount = Annotated[float, Meta(ge=0)]


class _Plain(Struct, gc=False):
    """A click as nearly all are: its values are what they mean, unless text holds a float. msgspec checks them in C.

    timestamp  ms of the years 2001 to 2286: no other unit has such numbers
    """

    user_id: Text | Integer
    item_id: Text | Integer
    timestamp: Annotated[int, Meta(ge=10**12, lt=10**13)]
    event_type: Annotated[str, Meta(min_length=1, max_length=LONGEST_WORD)] = DEFAULT_EVENT
    session_id: Text | Integer | None = None
    price: Amount | None = None
    quantity: Amount | None = None
    category: Text | Integer | None = None


class _Given(Struct, gc=False):
    """A click as producers write it: any value may be in any field."""

    user_id: Any = None
    item_id: Any = None
    timestamp: Any = None
    event_type: Any = None
    session_id: Any = None
    price: Any = None
    quantity: Any = None
    category: Any = None


class JsonCodec:
    """Decodes clicks. `max_message_bytes` and `max_future_ms` bound what is believed (see Settings).

    left_out  optional field -> messages whose value there was not usable, since somebody cleared it
    """

    def __init__(self, max_message_bytes: int, max_future_ms: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_future_ms = max_future_ms
        self._plain = msgspec.json.Decoder(_Plain).decode
        self._given = msgspec.json.Decoder(_Given).decode
        self.left_out: Counter[str] = Counter()

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
            message = self._plain(value)
        except UNDECODABLE:
            message = self._read(value)
        else:
            if (POINT in value or ESCAPE in value) and _has_float_text(message):
                message = self._read(value)
        user_id, item_id = str(message.user_id), str(message.item_id)
        session_id, category = message.session_id, message.category
        if key != user_id.encode() and not _is_id(key, user_id):
            raise BadClick(
                "key_is_not_user", f"key {key[:SHOWN]!r} but user_id {user_id[:SHOWN]!r}; key messages by user_id"
            )
        if message.timestamp > now_ms + self._max_future_ms:
            ahead = (message.timestamp - now_ms) / 1000
            raise BadClick("future_timestamp", f"{message.timestamp} ms lies {ahead:.0f} s ahead of the clock")
        return Click(
            user_id,
            item_id,
            message.timestamp,
            message.event_type,
            None if session_id is None else str(session_id),
            message.price,
            message.quantity,
            None if category is None else str(category),
        )

    def _read(self, value: bytes) -> _Plain:
        """What a message means that is not plain. Raises BadClick if that is no click."""
        try:
            given = self._given(value)
        except UNDECODABLE as exc:
            given = _given_loosely(value, exc)
        return _Plain(
            user_id=_id("user_id", given.user_id),
            item_id=_id("item_id", given.item_id),
            timestamp=_ms(given.timestamp),
            event_type=self._word("event_type", given.event_type, LONGEST_WORD) or DEFAULT_EVENT,
            session_id=self._word("session_id", given.session_id, LONGEST_ID),
            price=self._number("price", given.price),
            quantity=self._number("quantity", given.quantity),
            category=self._word("category", given.category, LONGEST_ID),
        )

    def _word(self, field: str, value: object, longest: int) -> str | None:
        try:
            return word(value, longest)
        except Unusable:
            self.left_out[field] += 1
            return None

    def _number(self, field: str, value: object) -> float | None:
        try:
            return number(value)
        except Unusable:
            self.left_out[field] += 1
            return None


def _has_float_text(message: _Plain) -> bool:
    """Whether some text of a plain message ends like a float, as "17.0" does, and so may mean another word."""
    texts = (message.user_id, message.item_id, message.event_type, message.session_id, message.category)
    for text in texts:  # noqa: SIM110  any() takes 150 ns more
        if type(text) is str and "." in text and text[-1] in DIGITS:
            return True
    return False


def loose_object(text: str) -> dict[str, Any]:
    """An object as Python's own decoder reads it: NaN, numbers like 1e400 and half an emoji spoil only their field.

    msgspec refuses the whole text for them. A string that cannot be UTF-8 becomes bytes, which no field takes.
    Raises ValueError or RecursionError if the text is no object.
    """
    read = json.loads(text)
    if not isinstance(read, dict):
        raise ValueError("no JSON object")
    for name, value in read.items():
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            read[name] = value.encode(errors="surrogatepass")
    return read


def _given_loosely(value: bytes, refusal: Exception) -> _Given:
    """Raises BadClick for msgspec's refusal if Python's decoder refuses too."""
    try:
        read = loose_object(value.decode("utf-8-sig"))
    except (RecursionError, ValueError):
        raise _undecodable(refusal) from refusal
    return _Given(*(read.get(field) for field in _Given.__struct_fields__))


def _undecodable(refusal: Exception) -> BadClick:
    if isinstance(refusal, msgspec.ValidationError):
        return BadClick("wrong_fields", str(refusal))
    if isinstance(refusal, UnicodeError):
        return BadClick("not_utf8", str(refusal))
    return BadClick("not_json", str(refusal))


def _id(field: str, value: object) -> str:
    """A user or an item. Raises BadClick."""
    try:
        read = word(value, LONGEST_ID)
    except Unusable as exc:
        raise BadClick("wrong_fields", f"{field} {_shown(value)} is {exc}") from exc
    if read is None:
        raise BadClick("wrong_fields", f"{field} is missing or empty")
    return read


def _is_id(key: bytes, user_id: str) -> bool:
    """Whether the key is the same id written in another way, as 17.0 is 17."""
    try:
        return word(key.decode(), LONGEST_ID) == user_id
    except ValueError:  # Unusable, or not UTF-8
        return False


def _ms(timestamp: object) -> int:
    """A time in ms since the epoch that a click may have. Raises BadClick."""
    try:
        read = time_ms(timestamp)
    except Unusable as exc:
        raise BadClick("bad_timestamp", f"{_shown(timestamp)} is {exc}") from exc
    if read is None:
        raise BadClick("wrong_fields", "timestamp is missing or empty")
    if read[0] < FIRST_CLICK_MS:
        raise BadClick(
            "bad_timestamp",
            f"{_shown(timestamp)} is dated before 1991: a spreadsheet's day number, or the time since something?",
        )
    return read[0]


def _shown(value: object) -> str:
    """The beginning of a value, as Python writes it; Python refuses to write an integer of more than 4,300 digits."""
    try:
        return repr(value[:SHOWN]) if isinstance(value, str) else repr(value)[:SHOWN]
    except ValueError:
        return "a number of thousands of digits"


encode = msgspec.json.Encoder().encode
"""Any event of stream.events -> its JSON bytes."""
