"""Moments on the command line and in messages. Those of a log are read by columns.py, by the same rules."""

from datetime import UTC, datetime

from stream.errors import ConfigError
from stream.wire.fields import Unusable, time_ms

LATEST_MS = 4_102_444_800_000
"""The year 2100: a later time is a mistake."""


def parse_time(text: str) -> int:
    """A moment on the command line, ISO 8601 or a number since the epoch -> ms. Raises ConfigError."""
    try:
        read = time_ms(text)
    except Unusable:
        read = None
    if read is None:
        raise ConfigError(f"time {text!r} is neither ISO (2017-10-03T03:00:00) nor a number of s or ms")
    return read[0]


def iso(ms: int | None) -> str:
    """A moment for people, UTC to the second."""
    return "the beginning or end" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")
