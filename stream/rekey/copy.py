"""A message of the source becomes its copy: the same value, timestamp and headers, with the user id as key.

What is no valid click is copied with the key that it has. Then the worker refuses it as it refuses any message, and
there is one place where dead letters are made.

Where states go from anonymous ids to users, a click with both ids has the anonymous one as key, and the user's as a
header: the worker that has the state of the anonymous id sends both on to the user's partition, state first. So all
clicks of a browser come to the user in their order, also in a backlog.
"""

from collections.abc import Callable
from typing import Any

from stream.errors import BadClick
from stream.kafka.delivery import Record
from stream.mapping.shape import with_headers
from stream.wire.codec import Codec
from stream.wire.dead_letter import LONGEST_KEY
from stream.wire.requests import JOIN_HEADER, without_ours

ANY_TIME_MS = 1 << 62
"""The clock for decoding: a click from the future has a user too, and may be a valid click when a worker reads it."""


def copied(
    message: Any,
    codec: Codec,
    topic: str,
    most_bytes: int,
    anonymous: Callable[[bytes], str | None] | None = None,
) -> Record:
    """The copy of a message.

    message     of confluent-kafka, without an error
    most_bytes  of key, value and headers of the copy. Of a longer message the first bytes are copied, without headers:
                more than --max-message-bytes, so it is the same dead letter
    anonymous   value of a click -> its anonymous id, None = it has none. None itself if no state goes over
    """
    key, value, headers = message.key(), message.value(), message.headers()
    kept: list[tuple[str, bytes | None]] = []  # of the headers, whatever their size
    if headers:  # a producer writes none of ours
        headers = without_ours(headers) or None
    try:
        whole = with_headers(value, headers, codec.headers)
        key = codec.decode(key, whole, ANY_TIME_MS).user_id.encode()
        other = None if anonymous is None else anonymous(whole or b"")
        if other is not None and other.encode() != key:
            kept, key = [(JOIN_HEADER, key)], other.encode()
            headers = [*(headers or ()), *kept]
    except BadClick:
        if value is None and key:  # perhaps a request to forget a user, whose id may be in another form
            key = codec.user(key) or key
    size = len(key or b"") + len(value or b"")
    if headers:
        size += sum(len(name) + len(data or b"") + 8 for name, data in headers)
    if size > most_bytes:
        headers, key = kept or None, key and key[:LONGEST_KEY]
        value = value and value[: most_bytes - LONGEST_KEY]
    return Record(topic, key, value, None, max(0, message.timestamp()[1]), headers)
