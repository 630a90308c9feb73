"""Keys and the partitions they were read from -> whether all producers choose partitions alike.

A user's state lives in the partition of the user's key, so producers with different partitioners split a user in two.
Kafka does not store how a partition was chosen, but it can be calculated again: the known partitioners are a hash of
the key modulo the number of partitions. A sample of keys is enough, because a wrong partitioner explains only one key
in `partitions` by chance.

Sources: Kafka's Utils.murmur2; librdkafka's rd_kafka_msg_partitioner_*, rdmurmur2.c and rdfnv1a.c; Sarama's
NewHashPartitioner.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

MOST_KEYS = 4_096
"""Keys kept at once. The hashes take 5 us a key, so that a full sample costs 20 ms."""

CHANCE, CHANCE_IF_MOVED = 1e-9, 1e-3
"""A partitioner counts as found if so many keys would fit it by chance with at most this probability. A key in two
partitions proves that there are two partitioners: then only their names are in question, and less is enough."""

KEYS_TO_JUDGE = 200
"""So many keys that no known partitioner explains are enough to say that none does."""


def murmur2(key: bytes) -> int:
    """What the Java client and librdkafka's murmur2 and murmur2_random take modulo the partitions."""
    m, h = 0x5BD1E995, 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & 0xFFFFFFFF
        h = h * m & 0xFFFFFFFF ^ (k ^ k >> 24) * m & 0xFFFFFFFF
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return (h ^ h >> 15) & 0x7FFFFFFF


def fnv1a(key: bytes) -> int:
    """What Sarama's default and librdkafka's fnv1a and fnv1a_random take: the absolute value of the signed hash."""
    h = 0x811C9DC5
    for byte in key:
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h if h < 1 << 31 else (1 << 32) - h


PARTITIONERS: dict[str, Callable[[bytes], int]] = {
    "murmur2": murmur2,
    "crc32": zlib.crc32,  # librdkafka's consistent and consistent_random, its default
    "fnv1a": fnv1a,
}


class Place(NamedTuple):
    """Where a key was read."""

    key: bytes
    partition: int
    offset: int


class Verdict(NamedTuple):
    """What a sample of keys shows.

    keys         pairs of key and partition in the sample
    fits         known partitioner -> how many of the pairs it explains, some of them by chance
    found        those that explain more than chance, the one that explains most first
    unexplained  pairs that none of those found explains
    moved        keys read from more than one partition
    example      a key that is not where the first found puts it, or one that moved if there is one; None if all are
    other        where the example was read before; None if it did not move
    """

    keys: int
    fits: dict[str, int]
    found: list[str]
    unexplained: int
    moved: int
    example: Place | None
    other: Place | None

    @property
    def mixed(self) -> bool:
        """Whether producers choose partitions in different ways."""
        return self.moved > 0 or len(self.found) > 1

    @property
    def unknown(self) -> bool:
        """Whether many keys are where no known partitioner puts them, each of them in one partition only."""
        return not self.mixed and self.keys >= KEYS_TO_JUDGE and self.unexplained > 0


class Placements:
    """A bounded sample of keys and where they were read.

    partitions  of the topic. With one there is nothing to judge, and nothing is kept
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.clear()

    def clear(self) -> None:
        """Forget the sample: what comes from now on is judged alone."""
        self._places: dict[bytes, Place] = {}
        self._fits: Counter[frozenset[str]] = Counter()
        self._examples: dict[frozenset[str], Place] = {}
        self._moved: dict[bytes, tuple[Place, Place]] = {}

    def add(self, key: bytes, partition: int, offset: int) -> None:
        """Take a message into the sample. A key in the sample is only looked at again in another partition."""
        first = self._places.get(key)
        if first is None:
            if self._partitions == 1 or len(self._places) >= MOST_KEYS:
                return
            first = self._places[key] = Place(key, partition, offset)
        elif first.partition == partition or key in self._moved:
            return
        else:
            self._moved[key] = (first, Place(key, partition, offset))
        fits = frozenset(name for name, hash_ in PARTITIONERS.items() if hash_(key) % self._partitions == partition)
        self._fits[fits] += 1
        self._examples.setdefault(fits, Place(key, partition, offset))

    def verdict(self) -> Verdict:
        """What the sample shows so far: which partitioners, taken together, explain it beyond chance."""
        chance = CHANCE_IF_MOVED if self._moved else CHANCE
        left, found = dict(self._fits), []
        while left:
            explains = _explained(left)
            name = max(explains, key=lambda name: explains[name])
            if _by_chance(explains[name], sum(left.values()), 1 / self._partitions) > chance:
                break
            found.append(name)
            left = {fits: n for fits, n in left.items() if name not in fits}
        other, example = next(iter(self._moved.values()), (None, self._misplaced(found)))
        return Verdict(
            sum(self._fits.values()),
            _explained(self._fits),
            found,
            sum(left.values()),
            len(self._moved),
            example,
            other,
        )

    def _misplaced(self, found: list[str]) -> Place | None:
        return next((place for fits, place in self._examples.items() if not fits & set(found[:1])), None)


def _explained(pairs: Mapping[frozenset[str], int]) -> dict[str, int]:
    return {name: sum(n for fits, n in pairs.items() if name in fits) for name in PARTITIONERS}


def _by_chance(fit: int, keys: int, chance: float) -> float:
    """An upper bound on the probability that an unrelated partitioner fits at least this many keys by chance.

    Chernoff's bound of the binomial tail: exp(-keys * KL(share || chance)).
    """
    share = fit / keys
    if share <= chance:
        return 1.0
    kl = share * math.log(share / chance)
    if share < 1:
        kl += (1 - share) * math.log((1 - share) / (1 - chance))
    return math.exp(-keys * kl)
