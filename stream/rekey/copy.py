"""A message of the source becomes its copy: the same value, timestamp and headers, with the user id as key.

What is no valid click is copied with the key that it has. Then the worker refuses it as it refuses any message, and
there is one place where dead letters are made.
"""

from typing import Any

from stream.errors import BadClick
from stream.kafka.delivery import Record
from stream.wire.codec import Codec
from stream.wire.dead_letter import LONGEST_KEY

ANY_TIME_MS = 1 << 62
"""The clock for decoding: a click from the future has a user too, and may be a valid click when a worker reads it."""


def copied(message: Any, codec: Codec, topic: str, most_bytes: int) -> Record:
    """The copy of a message.

    message     of confluent-kafka, without an error
    most_bytes  of key, value and headers of the copy. Of a longer message the first bytes are copied, without headers:
                more than --max-message-bytes, so it is the same dead letter
    """
    key, value, headers = message.key(), message.value(), message.headers()
    try:
        key = codec.decode(key, value, ANY_TIME_MS).user_id.encode()
    except BadClick:
        if value is None and key:  # perhaps a request to forget a user, whose id may be in another form
            key = codec.user(key) or key
    size = len(key or b"") + len(value or b"")
    if headers:
        size += sum(len(name) + len(data or b"") + 8 for name, data in headers)
    if size > most_bytes:
        headers, key = None, key and key[:LONGEST_KEY]
        value = value and value[: most_bytes - LONGEST_KEY]
    return Record(topic, key, value, None, max(0, message.timestamp()[1]), headers)
