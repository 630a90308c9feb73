"""A message that is no click -> the record that keeps it, cut to what its topic takes."""

from base64 import b64encode
from typing import Any

import msgspec

from stream.errors import BadClick
from stream.events import DeadLetter, Origin
from stream.wire.fields import LONGEST_ID
from stream.wire.json import encode

LONGEST_KEY = 4 * LONGEST_ID
"""Bytes of the longest user id in UTF-8: a longer key is no user's."""

LONGEST_DETAIL = 500


def dead_letter(origin: Origin, record: Any, why: BadClick, most_bytes: int) -> tuple[bytes | None, bytes]:
    """Kafka key and value of the letter about a bad message.

    record      an aiokafka ConsumerRecord: .timestamp (ms) .key .value (bytes or None)
    most_bytes  that key and value may have together, at least topics.SMALLEST_BYTES
    returns     the message's own key, None where that is longer than LONGEST_KEY: a part of a key would be another
                user's; and a DeadLetter that holds as much of the message as there is room for
    """
    key, value = record.key, record.value
    kafka_key = None if key is None or len(key) > LONGEST_KEY else key
    letter = DeadLetter(
        id=origin.id,
        reason=why.reason,
        detail=why.detail[:LONGEST_DETAIL],
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        timestamp=record.timestamp,
        key=None,
        value=None,
        key_bytes=len(key or b""),
        value_bytes=len(value or b""),
    )
    room = (most_bytes - len(kafka_key or b"") - len(encode(letter))) * 3 // 4 - 4  # base64: 4 bytes for each 3
    key_room = max(room - letter.value_bytes, room // 10)  # a short value leaves its room to a long key
    kept_key = _base64(key, key_room)
    kept_value = _base64(value, room - min(letter.key_bytes, key_room))
    return kafka_key, encode(msgspec.structs.replace(letter, key=kept_key, value=kept_value))


def _base64(data: bytes | None, most: int) -> str | None:
    """The first `most` bytes in base64."""
    return None if data is None else b64encode(data[:most]).decode()
