"""Defines the interface that converts message bytes to clicks. Each message format has one class (JSON: json.py)."""

from collections import Counter
from typing import Any, Protocol

from stream.events import Click


class Codec(Protocol):
    """Decodes messages of one format. tests/contracts/test_codecs.py tests every codec.

    left_out  optional field -> number of messages whose value in this field was not valid, since the last clear()
    """

    left_out: Counter[str]

    def decode(self, key: bytes | None, value: bytes | None, now_ms: int) -> Click:
        """Decode one Kafka message to a click.

        key     must be the user id in UTF-8. The key determines the partition, and a user's state is in one partition
        value   the message; None is a tombstone
        now_ms  current time of the worker, ms since the epoch
        Raises only BadClick, so that no message can stop the stream.
        """

    def user(self, key: bytes) -> bytes | None:
        """The id, in UTF-8, under which the user with this message key has a state; None if it is no user's key."""

    def keep(self, record: Any) -> Any:
        """What a dead letter may keep of a refused record: an object with its .offset .timestamp (ms) .key .value."""
