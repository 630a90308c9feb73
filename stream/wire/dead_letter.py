"""Makes dead letters: records that store the messages that are not valid clicks.

A dead letter is shortened if it would be larger than its topic allows.
"""

from base64 import b64encode
from typing import Any

import msgspec

from stream.errors import BadClick
from stream.events import DeadLetter, Origin
from stream.wire.fields import LONGEST_ID
from stream.wire.json import encode

LONGEST_KEY = 4 * LONGEST_ID
"""Length in bytes of the longest possible user id in UTF-8. A longer key cannot be a user id."""

LONGEST_DETAIL = 500


def dead_letter(origin: Origin, record: Any, why: BadClick, most_bytes: int) -> tuple[bytes | None, bytes]:
    """Make the dead letter for a bad message.

    record      an aiokafka ConsumerRecord: .timestamp (ms) .key .value (bytes or None)
    most_bytes  largest size of Kafka key and value together, at least topics.SMALLEST_BYTES
    returns     Kafka key and Kafka value of the dead letter. The Kafka key is the key of the message, or None if that
                is longer than LONGEST_KEY, because a shortened key could be the id of another user. The Kafka value is
                a DeadLetter in JSON, with as many bytes of the message as fit
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
    key_room = max(room - letter.value_bytes, room // 10)  # a short value leaves more bytes for a long key
    kept_key = _base64(key, key_room)
    kept_value = _base64(value, room - min(letter.key_bytes, key_room))
    return kafka_key, encode(msgspec.structs.replace(letter, key=kept_key, value=kept_value))


def _base64(data: bytes | None, most: int) -> str | None:
    """Return the first `most` bytes in base64, or None for None."""
    return None if data is None else b64encode(data[:most]).decode()
