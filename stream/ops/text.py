"""Makes text for a terminal: times, and texts that a producer has chosen."""

from datetime import UTC, datetime


def time_of(ms: int | None) -> str:
    """ISO 8601 in UTC; the number itself if it is no time of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp((ms or 0) / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def printable(text: str) -> str:
    """A producer's text without control characters, at most 500 characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:500])
