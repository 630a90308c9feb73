"""The values of the setting start_at: where a group begins that has no committed offsets."""

from datetime import UTC, datetime

from stream.errors import ConfigError

UNDECIDED, EARLIEST, LATEST = "undecided", "earliest", "latest"


def start_time_ms(start_at: str) -> int | None:
    """The time of the setting start_at, ms since the epoch; None for a word. Raises ConfigError.

    start_at  ISO 8601, in UTC without an offset
    """
    if start_at in (UNDECIDED, EARLIEST, LATEST):
        return None
    try:
        time = datetime.fromisoformat(start_at)
        time_ms = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        time_ms = -1
    if time_ms < 0:  # Kafka reads some negative times as other requests
        raise ConfigError(
            f"setting start_at is {start_at!r}; it must be {UNDECIDED}, {EARLIEST}, {LATEST} or a time such as "
            "2026-11-01T00:00:00"
        )
    return time_ms
