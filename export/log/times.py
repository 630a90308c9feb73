"""Times on the command line and in messages. The times of a log are read in columns.py, by the same rules."""

from datetime import UTC, datetime

from stream.errors import ConfigError
from stream.wire.fields import Unusable, time_ms

LATEST_MS = 4_102_444_800_000
"""The year 2100. A later time is treated as an error of the log."""


def parse_time(text: str) -> int:
    """Parse a time of the command line: ISO 8601 or a number since the epoch -> ms. Raises ConfigError."""
    try:
        read = time_ms(text)
    except Unusable:
        read = None
    if read is None:
        raise ConfigError(f"time {text!r} is neither ISO (2017-10-03T03:00:00) nor a number of s or ms")
    return read[0]


def iso(ms: int) -> str:
    """A time as text for people, UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")


def within(start_ms: int | None, end_ms: int | None) -> str:
    """start_ms <= time < end_ms as text for people; None = no such end, of which at most one is."""
    begins = [] if start_ms is None else [f"from {iso(start_ms)} on"]
    return " and ".join([*begins, *([] if end_ms is None else [f"before {iso(end_ms)}"])])
