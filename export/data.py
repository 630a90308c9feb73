"""Click logs."""

from typing import NamedTuple

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
GAP_EDGES_MS = (
    10 * SECOND, MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 8 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY,
)  # fmt: skip
"""Where the gap buckets part: within a visit, from visit to visit, from week to week."""


class Vocabulary(NamedTuple):
    """What the indices mean. `items` is by descending training count; one beyond the end is the unknown."""

    items: list[str]
    event_types: tuple[str, ...]
    gap_edges_ms: tuple[int, ...]
