"""Converts JSON bytes to clicks, and events to JSON bytes.

Where the values of a click are in a message is the message's shape (codec.py). Whatever the shape, a message is a valid
click if all of this is true:

- user, item and time are valid by the rules of fields.py,
- the time is plausible.

The user is in the value. Whether the message's key is the user id too is another question, which `check_key` answers:
the worker asks it, and the re-keying does not.

If an optional field is not valid, it is omitted from the click and counted. For an invalid message, the codec raises
BadClick with a fixed reason. It raises no other exception, so that no message can stop the stream.
"""

import json
import math
from collections import Counter
from typing import Any

import msgspec

from stream.errors import BadClick
from stream.events import Click
from stream.wire.codec import Given, MessageShape, Plain
from stream.wire.fields import (
    DEFAULT_EVENT,
    DIGITS,
    FIRST_CLICK_MS,
    LONGEST_ID,
    LONGEST_WORD,
    Unusable,
    number,
    time_ms,
    truth,
    word,
)

SHOWN = 64
"""Largest number of characters of a value in the detail of a BadClick."""

REKEY = "set rekey = true in [key] of the mapping (docs/mapping.md)"
"""What can be done without a change of the producers."""

UNDECODABLE = (msgspec.DecodeError, RecursionError, ValueError)
"""Exceptions of msgspec for bytes that are not JSON, nested too deeply, not UTF-8, or have a number out of range."""

POINT, PLUS, ESCAPE = b".+\\"
"""These are integers, because `46 in value` is 20 times faster than `b"." in value` (22 and 430 ns in 166 bytes)."""


class JsonCodec:
    """Decodes clicks from JSON.

    max_message_bytes  longer messages are refused
    max_future_ms      a click is refused if its time is later than the worker's time by more than this
    shape              where the values are; None = the fields of docs/events.md
    left_out           optional field -> messages whose value in this field was not valid, since the last clear()
    """

    def __init__(self, max_message_bytes: int, max_future_ms: int, shape: MessageShape | None = None) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_future_ms = max_future_ms
        self._plain, self._given, names, self.headers = shape or usual_shape()
        self._named = {field: names.get(field, field) for field in Given.__struct_fields__}
        self.left_out: Counter[str] = Counter()

    def decode(self, key: bytes | None, value: bytes | None, now_ms: int) -> Click:
        """Decode one Kafka message to a click.

        key     is not read: all values of a click are in the JSON
        now_ms  current time of the worker, ms since the epoch
        Raises only BadClick.
        """
        if not value:
            raise BadClick(
                "empty_value",
                "the message has no value, and is no valid request about a user; a click is a JSON object",
            )
        if len(value) > self._max_message_bytes:
            raise BadClick("too_large", f"the message has {len(value)} bytes; the limit is {self._max_message_bytes}")
        try:
            message = self._plain(value)
        except UNDECODABLE:
            message = self._read(value)
        else:
            if (POINT in value or PLUS in value or ESCAPE in value) and _has_float_text(message):
                message = self._read(value)
        user_id, item_id = str(message.user_id), str(message.item_id)
        session_id, category, event_id = message.session_id, message.category, message.event_id
        if message.timestamp > now_ms + self._max_future_ms:
            ahead = (message.timestamp - now_ms) / 1000
            raise BadClick("future_timestamp", f"{message.timestamp} ms is {ahead:.0f} s ahead of the worker's clock")
        return Click(
            user_id,
            item_id,
            message.timestamp,
            message.event_type,
            None if session_id is None else str(session_id),
            message.price,
            message.quantity,
            None if category is None else str(category),
            None if event_id is None else str(event_id),
            message.consent,
        )

    def check_key(self, key: bytes | None, user_id: str) -> None:
        """Raise BadClick if a message's key is not the id of its user, also in another form such as 17.0 for 17."""
        if not key:
            raise BadClick(
                "empty_key",
                f"the message has no key; key it by {self._named['user_id']} so that a user stays in one partition, "
                f"or {REKEY}",
            )
        user = user_id.encode()
        if key != user and self.user(key) != user:
            named = self._named["user_id"]
            raise BadClick(
                "key_is_not_user",
                f"key {key[:SHOWN]!r} but {named} {user_id[:SHOWN]!r}; key messages by {named}, or {REKEY}",
            )

    def user(self, key: bytes) -> bytes | None:
        """The user id as `decode` gives it, also for a key in another form such as 17.0 for 17."""
        try:
            user = word(key.decode(), LONGEST_ID)
        except ValueError:  # Unusable, or not UTF-8
            return None
        return None if user is None else user.encode()

    def keep(self, record: Any) -> Any:
        """The record itself: a dead letter has the original bytes."""
        return record

    def _read(self, value: bytes) -> Plain:
        """Decode a message that is not in the usual form (Plain). Raises BadClick if it is not a valid click."""
        given, named = self._given(value), self._named
        return Plain(
            user_id=_id(named["user_id"], given.user_id),
            item_id=_id(named["item_id"], given.item_id),
            timestamp=_ms(named["timestamp"], given.timestamp),
            event_type=self._word("event_type", given.event_type, LONGEST_WORD) or DEFAULT_EVENT,
            session_id=self._word("session_id", given.session_id, LONGEST_ID),
            price=self._number("price", given.price),
            quantity=self._number("quantity", given.quantity),
            category=self._word("category", given.category, LONGEST_ID),
            event_id=self._word("event_id", given.event_id, LONGEST_ID),
            consent=self._truth("consent", given.consent),
        )

    def _word(self, field: str, value: object, longest: int) -> str | None:
        try:
            return word(value, longest)
        except Unusable:
            self.left_out[field] += 1
            return None

    def _truth(self, field: str, value: object) -> bool | None:
        try:
            return truth(value)
        except Unusable:
            self.left_out[field] += 1
            return None

    def _number(self, field: str, value: object) -> float | None:
        try:
            return number(value)
        except Unusable:
            self.left_out[field] += 1
            return None


def _has_float_text(message: Plain) -> bool:
    """Return True if a text of the message ends like a float, as "17.0" and "1e+18" do. It may need conversion."""
    texts = (
        message.user_id,
        message.item_id,
        message.event_type,
        message.session_id,
        message.category,
        message.event_id,
    )
    for text in texts:  # noqa: SIM110  any() takes 150 ns longer
        if type(text) is str and ("." in text or "+" in text) and text[-1] in DIGITS:
            return True
    return False


def loose_object(text: str) -> dict[str, Any]:
    """Decode a JSON object with Python's json module, which accepts more than msgspec.

    msgspec refuses the whole text for NaN, for numbers like 1e400, for integers of thousands of digits and for half of
    a surrogate pair. Here they make only their own field invalid. A string that cannot be encoded in UTF-8 becomes
    bytes, which no field accepts.
    Raises ValueError or RecursionError if the text is not a JSON object.
    """
    if not text.lstrip().startswith("{"):  # before it is decoded: a list takes ten times the memory of its text
        raise ValueError("not a JSON object")
    read: dict[str, Any] = _encodable(json.loads(text, parse_int=_integer))
    return read


def _integer(digits: str) -> int | float:
    """An integer, or infinity where Python refuses to convert so many digits: no field accepts it."""
    try:
        return int(digits)
    except ValueError:
        return math.inf


def _encodable(value: Any) -> Any:
    """The value with bytes in the place of each string that cannot be encoded."""
    if isinstance(value, str):
        broken = any("\ud800" <= character <= "\udfff" for character in value)
        return value.encode(errors="surrogatepass") if broken else value
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, dict):
        return {name: _encodable(each) for name, each in value.items()}
    return value


def usual_shape() -> MessageShape:
    """The shape of docs/events.md."""
    decode = msgspec.json.Decoder(Given).decode

    def given(value: bytes) -> Given:
        try:
            return decode(value)
        except UNDECODABLE as exc:
            read = loosely(value, exc)
        return Given(*(read.get(field) for field in Given.__struct_fields__))

    return MessageShape(msgspec.json.Decoder(Plain).decode, given)


def loosely(value: bytes, refusal: Exception) -> dict[str, Any]:
    """Decode with `loose_object`. If that fails too, raise BadClick for `refusal`, the exception of msgspec."""
    try:
        return loose_object(value.decode("utf-8-sig"))
    except (RecursionError, ValueError):
        raise _undecodable(refusal) from refusal


def _undecodable(refusal: Exception) -> BadClick:
    if isinstance(refusal, msgspec.ValidationError):
        return BadClick("wrong_fields", str(refusal))
    if isinstance(refusal, UnicodeError):
        return BadClick("not_utf8", str(refusal))
    if isinstance(refusal, RecursionError):
        return BadClick("not_json", "objects or lists are inside each other too deeply; at least 900 levels are read")
    return BadClick("not_json", str(refusal))


def _id(field: str, value: object) -> str:
    """Read the id in a field, by its name for the detail. Raises BadClick if it is missing or not valid."""
    try:
        read = word(value, LONGEST_ID)
    except Unusable as exc:
        raise BadClick("wrong_fields", f"{field} {_shown(value)} is {exc}") from exc
    if read is None:
        raise BadClick("wrong_fields", f"{field} is missing or empty")
    return read


def _ms(field: str, timestamp: object) -> int:
    """Read a time from 1991 on, in ms since the epoch. Raises BadClick if it is missing, not valid or earlier."""
    try:
        read = time_ms(timestamp)
    except Unusable as exc:
        raise BadClick("bad_timestamp", f"{field} {_shown(timestamp)} is {exc}") from exc
    if read is None:
        raise BadClick("wrong_fields", f"{field} is missing or empty")
    if read[0] < FIRST_CLICK_MS:
        raise BadClick(
            "bad_timestamp",
            f"{field} {_shown(timestamp)} is a time before 1991; send ms since 1970, not a spreadsheet's day number or "
            "a time relative to another moment",
        )
    return read[0]


def _shown(value: object) -> str:
    """Return the beginning of the value as Python writes it."""
    try:
        return repr(value[:SHOWN]) if isinstance(value, str) else repr(value)[:SHOWN]
    except ValueError:  # an integer of more than 4,300 digits
        return "a number of thousands of digits"


encode = msgspec.json.Encoder().encode
"""Convert an event of stream.events to JSON bytes."""
