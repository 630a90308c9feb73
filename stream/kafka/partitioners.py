"""Checks from a sample of keys and their partitions whether all producers use the same partitioner.

A user's state is in the partition of the user's key. If producers use different partitioners, a user has clicks in two
partitions, and so two states. Kafka does not store which partitioner chose a partition. But each known partitioner is a
hash of the key modulo the number of partitions, so this module computes it again and compares. A sample of keys is
enough: a wrong partitioner gives the right partition by chance for only one key in `partitions`.

Sources: Kafka's Utils.murmur2; librdkafka's rd_kafka_msg_partitioner_*, rdmurmur2.c and rdfnv1a.c; Sarama's
NewHashPartitioner.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from stream.log_lines import hashed

MOST_KEYS = 4_096
"""Largest number of keys in a sample. The hashes take 5 us per key, so a full sample costs 20 ms."""

CHANCE, CHANCE_IF_SPLIT = 1e-9, 1e-3
"""A partitioner is in use if the probability that so many keys match it by chance is at most CHANCE. If a key is in two
partitions, there certainly are two partitioners and only their names are unknown: then CHANCE_IF_SPLIT is enough."""

KEYS_TO_JUDGE = 200
"""A sample with fewer keys is too small to conclude that producers use an unknown partitioner."""


def murmur2(key: bytes) -> int:
    """The hash of the Java client, and of librdkafka's murmur2 and murmur2_random."""
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
    """The hash of Sarama's default, and of librdkafka's fnv1a and fnv1a_random: the signed hash's absolute value."""
    h = 0x811C9DC5
    for byte in key:
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h if h < 1 << 31 else (1 << 32) - h


PARTITIONERS: dict[str, Callable[[bytes], int]] = {
    "murmur2": murmur2,
    "crc32": zlib.crc32,  # librdkafka's consistent and consistent_random, its default
    "fnv1a": fnv1a,
}


CLIENTS = {"murmur2": "Java clients", "crc32": "librdkafka's default", "fnv1a": "Sarama"}


class SampledKey(NamedTuple):
    """A key, with the partition and offset of the message that had it."""

    key: bytes
    partition: int
    offset: int


class Verdict(NamedTuple):
    """The result for a sample of keys.

    keys         number of different pairs of key and partition in the sample
    fits         known partitioner -> number of pairs for which it gives this partition, some of them by chance
    found        the partitioners in use: they match more pairs than by chance. The most frequent one is first
    unexplained  number of pairs that no partitioner in `found` matches
    split        number of keys in more than one partition
    example      a key in a second partition. If there is none: a key in a partition that found[0] does not give. None
                 if found[0] gives the partition of every key
    earlier      the first message with the key of `example`, from a different partition; None if no key is split
    """

    keys: int
    fits: dict[str, int]
    found: list[str]
    unexplained: int
    split: int
    example: SampledKey | None
    earlier: SampledKey | None

    @property
    def mixed(self) -> bool:
        """True if producers use different partitioners."""
        return self.split > 0 or len(self.found) > 1

    @property
    def unknown(self) -> bool:
        """True if producers use a partitioner that is not in PARTITIONERS, and no key is in two partitions."""
        return not self.mixed and self.keys >= KEYS_TO_JUDGE and self.unexplained > 0


class KeySample:
    """A bounded sample of keys with their partitions.

    partitions  number of partitions of the topic. With one partition the sample stays empty
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.clear()

    def clear(self) -> None:
        """Remove all keys from the sample."""
        self._first: dict[bytes, SampledKey] = {}
        self._fits: Counter[frozenset[str]] = Counter()
        self._examples: dict[frozenset[str], SampledKey] = {}
        self._split: dict[bytes, tuple[SampledKey, SampledKey]] = {}

    def add(self, key: bytes, partition: int, offset: int) -> None:
        """Add the key of a message, if the sample has room and does not have the key yet.

        A key in the sample is used a second time only if it is in a different partition.
        """
        first = self._first.get(key)
        if first is None:
            if self.partitions == 1 or len(self._first) >= MOST_KEYS:
                return
            first = self._first[key] = SampledKey(key, partition, offset)
        elif first.partition == partition or key in self._split:
            return
        else:
            self._split[key] = (first, SampledKey(key, partition, offset))
        fits = frozenset(name for name, hash_ in PARTITIONERS.items() if hash_(key) % self.partitions == partition)
        self._fits[fits] += 1
        self._examples.setdefault(fits, SampledKey(key, partition, offset))

    def verdict(self) -> Verdict:
        """Find the partitioners that together match the sample better than by chance."""
        chance = CHANCE_IF_SPLIT if self._split else CHANCE
        left, found = dict(self._fits), []
        while left:
            explains = _explained(left)
            name = max(explains, key=lambda name: explains[name])
            if by_chance(explains[name], sum(left.values()), 1 / self.partitions) > chance:
                break
            found.append(name)
            left = {fits: n for fits, n in left.items() if name not in fits}
        earlier, example = next(iter(self._split.values()), (None, self._unmatched(found)))
        return Verdict(
            sum(self._fits.values()),
            _explained(self._fits),
            found,
            sum(left.values()),
            len(self._split),
            example,
            earlier,
        )

    def _unmatched(self, found: list[str]) -> SampledKey | None:
        return next((key for fits, key in self._examples.items() if not fits & set(found[:1])), None)


def _explained(pairs: Mapping[frozenset[str], int]) -> dict[str, int]:
    return {name: sum(n for fits, n in pairs.items() if name in fits) for name in PARTITIONERS}


def by_chance(fit: int, keys: int, chance: float) -> float:
    """An upper bound on the probability that an unrelated partitioner matches at least `fit` of `keys` keys by chance.

    It is Chernoff's bound of the binomial tail: exp(-keys * KL(share || chance)).
    """
    share = fit / keys
    if share <= chance:
        return 1.0
    kl = share * math.log(share / chance)
    if share < 1:
        kl += (1 - share) * math.log((1 - share) / (1 - chance))
    return math.exp(-keys * kl)


def described(verdict: Verdict, topic: str) -> str:
    """The text of a warning that producers of a topic use several partitioners. Keys in it are hashed."""
    facts = [
        f"topic={topic}",
        f"keys={verdict.keys}",
        matches(verdict),
        f"unexplained={verdict.unexplained}",
        f"keys_in_two_partitions={verdict.split}",
    ]
    if verdict.example is not None:
        key, partition, offset = verdict.example
        facts += [f"user={hashed(key)}", f"partition={partition}", f"offset={offset}"]
    if verdict.earlier is not None:
        facts += [f"other_partition={verdict.earlier.partition}", f"other_offset={verdict.earlier.offset}"]
    found = ", ".join(f"{name} ({CLIENTS[name]})" for name in verdict.found)
    return (
        f"producers put keys into partitions in different ways: {' '.join(facts)}; partitioners found: "
        f"{found or 'none that is known'}; a user in two partitions has two states, so give all producers the same "
        "partitioner (librdkafka: partitioner=murmur2_random), or a mapping with rekey = true"
    )


def matches(verdict: Verdict) -> str:
    """How many keys each known partitioner matches, as facts of a log line."""
    return " ".join(f"{name}={n}" for name, n in verdict.fits.items())
