"""A message that is no click -> the event that keeps it, cut to what a broker takes."""

from base64 import b64encode
from typing import Any

from stream.errors import BadClick
from stream.events import DeadLetter, Origin

DEAD_LETTER_BYTES = 512 << 10
"""Raw bytes kept of a bad message: base64 adds a third, and a broker takes 1 MB by default."""


def dead_letter(origin: Origin, record: Any, why: BadClick) -> DeadLetter:
    """A bad message with its reason; its value is cut at DEAD_LETTER_BYTES, its key at a tenth of that."""
    key, value = record.key, record.value
    return DeadLetter(
        id=origin.id,
        reason=why.reason,
        detail=why.detail,
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        timestamp=record.timestamp,
        key=None if key is None else b64encode(key[: DEAD_LETTER_BYTES // 10]).decode(),
        value=None if value is None else b64encode(value[:DEAD_LETTER_BYTES]).decode(),
        value_bytes=len(value or b""),
    )
