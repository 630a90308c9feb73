"""Producers that choose partitions in different ways are distinguished from one consistent custom partitioner."""

import random
import zlib
from collections import defaultdict
from collections.abc import Callable

import pytest
from confluent_kafka import Message, Producer

from stream.demo.broker import EmbeddedBroker
from stream.kafka.partitioners import MOST_KEYS, PARTITIONERS, KeySample, fnv1a, murmur2

USERS = [f"user{n}".encode() for n in range(3_000)]


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key: bytes, hashed: int) -> None:
    """The values of Kafka's own UtilsTest, without the sign bit, as its partitioner uses them."""
    assert murmur2(key) == hashed & 0x7FFFFFFF


@pytest.mark.parametrize(
    ("key", "hashed"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968), (b"abc", 0x1A47E90B)]
)
def test_fnv1a_is_the_authors(key: bytes, hashed: int) -> None:
    """The published 32-bit values; a negative one becomes its absolute value, as in Sarama."""
    signed = hashed - (1 << 32) if hashed >= 1 << 31 else hashed
    assert fnv1a(key) == abs(signed)


def test_crc32_is_the_checksum_of_zip() -> None:
    """The check value of CRC-32."""
    assert PARTITIONERS["crc32"](b"123456789") == 0xCBF43926


@pytest.mark.parametrize(
    ("partitioner", "name"),
    [
        ("consistent", "crc32"),
        ("consistent_random", "crc32"),
        ("murmur2", "murmur2"),
        ("murmur2_random", "murmur2"),
        ("fnv1a", "fnv1a"),
        ("fnv1a_random", "fnv1a"),
    ],
)
def test_librdkafkas_partitions_equal_the_hashes(partitioner: str, name: str) -> None:
    """The real producer with each of its partitioners agrees on 500 keys of 1 to 40 bytes, not all of them ASCII."""
    rng, partitions = random.Random(5), 7
    keys = [rng.randbytes(rng.randrange(1, 41)) for _ in range(500)]
    where: dict[bytes, int | None] = {}

    def delivered(_: object, message: Message) -> None:
        where[message.key() or b""] = message.partition()

    with EmbeddedBroker({"clicks": partitions}) as broker:
        producer = Producer({"bootstrap.servers": broker.address, "partitioner": partitioner, "linger.ms": 20})
        for key in keys:
            producer.produce("clicks", b"{}", key, on_delivery=delivered)
        assert producer.flush(30) == 0
    assert where == {key: PARTITIONERS[name](key) % partitions for key in keys}


def sample(partitions: int, *producers: Callable[[bytes], int], users: int = 300) -> KeySample:
    """A sample in which every producer writes a click of each user."""
    sampled = KeySample(partitions)
    for offset, producer in enumerate(producers):
        for key in USERS[:users]:
            sampled.add(key, producer(key) % partitions, offset)
    return sampled


@pytest.mark.parametrize("partitions", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("name", list(PARTITIONERS))
def test_one_known_partitioner_is_found_and_nothing_else(name: str, partitions: int) -> None:
    """Producers with the same partitioner cause no warning, also if few partitions make matches by chance likely."""
    verdict = sample(partitions, PARTITIONERS[name], PARTITIONERS[name]).verdict()
    assert (verdict.found, verdict.fits[name]) == ([name], 300)
    assert (verdict.mixed, verdict.unknown, verdict.unexplained, verdict.example) == (False, False, 0, None)


@pytest.mark.parametrize("partitions", [2, 4, 12])
@pytest.mark.parametrize(("one", "two"), [("murmur2", "crc32"), ("crc32", "fnv1a"), ("fnv1a", "murmur2")])
def test_two_partitioners_are_both_named(one: str, two: str, partitions: int) -> None:
    """Two producers that share their users: both hashes are found, with a user that is in two partitions."""
    verdict = sample(partitions, PARTITIONERS[one], PARTITIONERS[two]).verdict()
    assert verdict.mixed
    assert set(verdict.found) == {one, two}
    assert verdict.unexplained == 0
    assert verdict.example is not None
    assert verdict.earlier is not None
    key = verdict.example.key
    assert (verdict.earlier.key, verdict.earlier.partition) == (key, PARTITIONERS[one](key) % partitions)
    assert verdict.example.partition == PARTITIONERS[two](key) % partitions != verdict.earlier.partition
    assert (verdict.earlier.offset, verdict.example.offset) == (0, 1)


@pytest.mark.parametrize("partitions", [2, 4, 12])
def test_two_partitioners_are_found_without_a_user_in_common(partitions: int) -> None:
    """A second producer with its own 100 users besides 2,000 others is found by the hashes alone."""
    sampled = KeySample(partitions)
    for key in USERS[:2_000]:
        sampled.add(key, murmur2(key) % partitions, 1)
    for key in USERS[2_000:2_100]:
        sampled.add(key, zlib.crc32(key) % partitions, 2)
    verdict = sampled.verdict()
    assert verdict.split == 0
    assert verdict.found == ["murmur2", "crc32"]
    assert verdict.fits["murmur2"] >= 2_000
    assert verdict.mixed
    assert verdict.example is not None
    assert verdict.example.offset == 2
    assert verdict.example.partition != murmur2(verdict.example.key) % partitions


def test_three_partitioners_are_all_named() -> None:
    """A third producer is found besides two others."""
    assert set(sample(8, *PARTITIONERS.values()).verdict().found) == set(PARTITIONERS)


@pytest.mark.parametrize("partitions", [2, 3, 8, 64])
def test_a_custom_partitioner_is_unknown_but_not_mixed(partitions: int) -> None:
    """A consistent custom partitioner puts each user in one partition, so there is no warning."""
    verdict = sample(partitions, lambda key: int(key[4:]), lambda key: int(key[4:]), users=3_000).verdict()
    assert (verdict.mixed, verdict.unknown, verdict.split, verdict.found) == (False, True, 0, [])


def test_a_custom_rule_for_some_users_is_not_mixed() -> None:
    """The Java client's partitions, but some users always in partition 0: consistent, so not mixed."""
    verdict = sample(8, lambda key: 0 if key.endswith(b"7") else murmur2(key)).verdict()
    assert verdict.found == ["murmur2"]
    assert verdict.unexplained > 20
    assert (verdict.mixed, verdict.unknown) == (False, True)


def test_partitions_without_regard_to_the_key_are_mixed() -> None:
    """Round robin: no partitioner matches the keys, but users are in several partitions."""
    rng = random.Random(1)
    verdict = sample(4, lambda _: rng.randrange(4), lambda _: rng.randrange(4)).verdict()
    assert verdict.mixed
    assert verdict.found == []
    assert verdict.split > 100


@pytest.mark.parametrize("partitions", [2, 4])
def test_few_users_in_two_partitions_are_enough(partitions: int) -> None:
    """Five users are too few for the hashes, but one user in two partitions is enough."""
    sampled = sample(partitions, murmur2, users=5)
    assert not sampled.verdict().mixed
    sampled.add(USERS[0], (murmur2(USERS[0]) + 1) % partitions, 9)
    verdict = sampled.verdict()
    assert verdict.mixed
    assert verdict.split == 1
    assert verdict.example == (USERS[0], (murmur2(USERS[0]) + 1) % partitions, 9)


def test_forty_users_in_two_partitions_name_their_partitioners() -> None:
    """Users in two partitions prove that there are two partitioners, so few users are enough to name them."""
    verdict = sample(4, murmur2, zlib.crc32, users=40).verdict()
    assert set(verdict.found) == {"murmur2", "crc32"}
    assert verdict.unexplained == 0


def test_few_keys_are_not_judged() -> None:
    """Matches by chance cause no warning: none for 100 small samples of one partitioner."""
    for begin in range(0, 2_000, 20):
        sampled = KeySample(2)
        for key in USERS[begin : begin + 20]:
            sampled.add(key, int(key[4:]) % 2, 0)
        verdict = sampled.verdict()
        assert (verdict.mixed, verdict.unknown) == (False, False)


def test_one_partition_is_not_checked() -> None:
    """With one partition every partitioner is right, so no key is sampled."""
    verdict = sample(1, murmur2, zlib.crc32).verdict()
    assert (verdict.keys, verdict.mixed, verdict.unknown) == (0, False, False)


def test_the_sample_is_bounded_and_can_start_again() -> None:
    """The sample stays small for any number of users; after `clear` only later keys count."""
    sampled = KeySample(4)
    for n in range(3 * MOST_KEYS):
        key = b"%d" % n
        sampled.add(key, zlib.crc32(key) % 4, n)
    assert sampled.verdict().keys == MOST_KEYS
    sampled.add(b"1", (zlib.crc32(b"1") + 1) % 4, 0)
    assert sampled.verdict().split == 1
    sampled.clear()
    assert sampled.verdict().keys == 0
    for key in USERS[:300]:
        sampled.add(key, murmur2(key) % 4, 0)
    assert sampled.verdict().found == ["murmur2"]
    assert sampled.verdict().fits["murmur2"] == 300


def test_a_worker_with_one_of_many_partitions_finds_the_partitioner() -> None:
    """A worker reads only its own partitions; the partitioner is found from these keys, too."""
    seen: dict[int, list[bytes]] = defaultdict(list)
    for key in USERS:
        seen[murmur2(key) % 8].append(key)
    sampled = KeySample(8)
    for key in seen[5]:
        sampled.add(key, 5, 0)
    verdict = sampled.verdict()
    assert verdict.found == ["murmur2"]
    assert not verdict.mixed
