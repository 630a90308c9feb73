"""Finds the partitioner of the producers in the rows and clicks that they left, when partitions were added.

A row is in partition hash(user id) mod the old number of partitions. Only the right hash explains all rows; a wrong
one explains one row in (old number). So a few dozen rows are enough. With one old partition the rows show nothing, and
the clicks in the new partitions are the evidence.
"""

from collections.abc import Iterable, Mapping, Sequence

from stream.errors import ConfigError
from stream.kafka.partitioners import PARTITIONERS, by_chance

STAY = "none"
"""In place of a partitioner's name: no row moves."""

MOST_CHANCE = 1e-6
LEAST_SHARE, LEAST_SHARE_BEFORE = 0.5, 0.9
"""A partitioner is the producers' if it explains this share, and chance would explain so many at most so often. A
number of partitions that nobody knows any more must explain more."""

KEYS = 2_000
"""Keys that are looked at in each partition."""


def placed(key: bytes, name: str, partitions: int) -> int:
    """The partition of a key under the partitioner `name`."""
    return PARTITIONERS[name](key) % partitions


def partitions_before(rows: Mapping[int, Sequence[bytes]], now: int) -> int:
    """Return the number of partitions for which the rows were written, if a known partitioner explains one; else `now`.

    rows  partition -> keys of rows in it
    """
    used = max((number for number, keys in rows.items() if keys), default=0) + 1
    keys = [(key, number) for number, some in rows.items() for key in some]
    hashes = [[(hash_(key), number) for key, number in keys] for hash_ in PARTITIONERS.values()]

    def explained(count: int) -> bool:
        return any(
            _fits(pairs, count) >= LEAST_SHARE_BEFORE * len(pairs)
            and by_chance(_fits(pairs, count), len(pairs), 1 / count) <= MOST_CHANCE
            for pairs in hashes
        )

    if not keys or explained(now):
        return now
    return next((count for count in range(max(2, used), now) if explained(count)), now)


def _fits(hashes: Sequence[tuple[int, int]], partitions: int) -> int:
    """How many of the pairs (hash of a key, its partition) belong together."""
    return sum(hash_ % partitions == number for hash_, number in hashes)


def find_partitioner(
    rows: Mapping[int, Iterable[bytes]], before: int, clicks: Mapping[int, Iterable[bytes]], now: int
) -> str:
    """Return the name of the producers' partitioner.

    rows    partition -> keys of rows in it, when the topic had `before` partitions
    clicks  partition -> keys of clicks in it, since it has `now` partitions
    Raises ConfigError if no known partitioner explains them, or if they are too few to show which one does.
    """
    pairs = [
        (key, number, count)
        for found, count in ((rows, before), (clicks, now))
        for number, keys in found.items()
        for key in keys
    ]
    chance = sum(1 / count for *_, count in pairs) / max(1, len(pairs))
    fits = {name: sum(placed(key, name, count) == number for key, number, count in pairs) for name in PARTITIONERS}
    found = [
        name
        for name, fit in fits.items()
        if fit and fit >= LEAST_SHARE * len(pairs) and by_chance(fit, len(pairs), chance) <= MOST_CHANCE
    ]
    if len(found) == 1:
        return found[0]
    counts = " ".join(f"{name}={fit}" for name, fit in fits.items())
    raise ConfigError(
        f"the partitioner of the producers cannot be found out: keys={len(pairs)} {counts}; add --partitioner with "
        f"the one that all producers use ({', '.join(PARTITIONERS)}), or --partitioner {STAY}: then no row moves, and "
        "users whose clicks go to another partition now begin without history"
    )
