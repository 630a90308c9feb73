"""The interface between message bytes and clicks. A message format is one class that has it (JSON: json.py)."""

from collections import Counter
from typing import Protocol

from stream.events import Click


class Codec(Protocol):
    """Decodes the clicks of one message format. Its tests: tests/contracts/test_codecs.py.

    left_out  optional field -> messages whose value there was not usable, since somebody cleared it
    """

    left_out: Counter[str]

    def decode(self, key: bytes | None, value: bytes | None, now_ms: int) -> Click:
        """The click in one Kafka message.

        key     the user id in UTF-8: the key chooses the partition, and a user's state lives in one partition
        value   the message itself; None is a tombstone
        now_ms  the worker's clock, ms since the epoch
        Raises BadClick and nothing else: one message can neither stop the stream nor be half read.
        """
