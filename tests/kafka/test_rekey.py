"""A topic with keys of any kind is re-keyed: its clicks are decided as if they were keyed by the user."""

import itertools
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from bench.readers import progress
from stream.errors import ConfigError
from stream.events import DeadLetter
from stream.kafka.topics import check_topics
from stream.kafka_config import PLAINTEXT
from stream.rekey.topic import by_user, check_source, copy_limit, create, rekeyed
from stream.settings import Topics
from tests.changed_model import with_mapping
from tests.kafka.lane import ASK_S, NOW_MS, Lane, Worker, clicks, wait_until

MAPPING = """
[fields]
user_id = "user_id"
item_id = "item_id"
timestamp = "timestamp"
event_type = "event_type"
[key]
holds = "other"
rekey = true
"""


@dataclass
class RekeyedLane(Lane):
    """A lane whose worker reads `source` through the topic of the re-keyed clicks, which is the lane's clicks topic."""

    @property
    def source(self) -> str:
        return super().topics.clicks

    @property
    def topics(self) -> Topics:
        return rekeyed(super().topics)

    def start(self, **options: object) -> Worker:
        return super().start(clicks_topic=self.source, **options)

    def send(self, messages: list[tuple[bytes | None, bytes | None]], **config: object) -> None:
        """Publish to the source. Each message has its number as a header, and a timestamp of its own."""
        producer = Producer({"bootstrap.servers": self.broker, "enable.idempotence": True, "log_level": 2, **config})
        for key, value in messages:
            number = next(self.numbers)
            producer.produce(self.source, value, key, timestamp=NOW_MS + number, headers={"number": b"%d" % number})
        assert producer.flush(60) == 0

    numbers = itertools.count()

    def copied(self) -> tuple[int, int]:
        """(messages of the source that have a copy, messages of the source)."""
        with progress(self.broker, self.topics.clicks, self.source) as look:
            return look()

    def wait_until_decided(self) -> None:
        def done() -> bool:
            committed, ends = self.copied()
            return committed >= ends

        wait_until(done, "all messages are copied: " + self._logs(), 60, ASK_S)
        self.wait_for_clicks()


@pytest.fixture
def lane(kafka: str, name: str, model: Path, tmp_path: Path) -> Iterator[RekeyedLane]:
    """Topics as `eddy topics create --mapping` makes them, and a model with this mapping."""
    lane = rekeyed_lane(kafka, name, model, tmp_path, MAPPING)
    yield lane
    lane.end_all()


def rekeyed_lane(kafka: str, name: str, model: Path, tmp_path: Path, mapping: str) -> RekeyedLane:
    directory = with_mapping(model, tmp_path / "random" / "1", mapping)
    lane = RekeyedLane(kafka, name, directory, tmp_path)
    topics = msgspec.structs.replace(lane.topics, clicks=lane.source)
    source = NewTopic(lane.source, lane.partitions, 1, config={"retention.ms": "-1"})  # the clicks are of 2025
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([source])[lane.source].result()
    create(kafka, topics, str(directory / "mapping.toml"), lane.partitions, 1)
    return lane


def odd_key(n: int, user: bytes) -> bytes | None:
    """No key, a session's, and what the serializers of JSON, integers and Avro write."""
    kinds = (None, b"session %d" % (n % 50), b'"%s"' % user, n.to_bytes(4, "big"), b"\0\0\0\0\1\x08" + user, user)
    return kinds[n % len(kinds)]


BAD: list[tuple[bytes | None, bytes | None]] = [
    (None, b"{"),
    (b"k", None),
    (b"k", b'{"user_id": "user1", "item_id": "i1", "timestamp": "never"}'),
    (None, b"x" * 70_000),
]
REASONS = ["not_json", "empty_value", "bad_timestamp", "too_large"]


def test_two_workers_after_a_killed_one_copy_each_message_once_and_decide_as_if_it_were_keyed_by_the_user(
    lane: RekeyedLane,
) -> None:
    """Two producers with different keys and partitioners; kill -9 midway. Each message of the source has one copy with
    its value, timestamp and headers, in the order of its partition. What is no click is a dead letter as ever."""
    worker = lane.start()
    for part, bad in enumerate(BAD):
        some = clicks(500, users=100, seed=part)
        odd = [(odd_key(n, user or b""), value) for n, (user, value) in enumerate(some)]
        lane.send([*odd[:250], bad], partitioner="consistent_random")
        lane.send(odd[250:], partitioner="murmur2_random")
        if part == 1:
            worker.wait_for("re-keying: topic=")
    worker.end(signal.SIGKILL)
    done, ends = lane.copied()
    assert 0 < done < ends, "the worker was done before it could be killed"
    workers = [lane.start(), lane.start()]
    for each in workers:
        each.wait_for("re-keying: topic=")
    lane.wait_until_decided()

    sent, copies = by_number(lane.read(lane.source)), lane.read(lane.topics.clicks)
    assert len(copies) == len(sent) == 2_004
    assert Counter(number(copy) for copy in copies) == Counter(list(sent))
    order: defaultdict[Any, list[int]] = defaultdict(list)
    for copy in sorted(copies, key=lambda m: (m.partition(), m.offset())):
        original = sent[number(copy)]
        assert (copy.value(), copy.timestamp()) == (original.value(), original.timestamp())
        order[copy.key(), original.partition()].append(original.offset())
        if original.value() not in [value for _, value in BAD]:
            assert copy.key() == msgspec.json.decode(copy.value())["user_id"].encode()
        else:
            assert copy.key() == original.key()
    assert all(offsets == sorted(offsets) for (key, _), offsets in order.items() if key is not None)
    lane.assert_as_if_nothing_had_happened()
    letters = [msgspec.json.decode(m.value(), type=DeadLetter) for m in lane.read(lane.topics.dead_letters)]
    assert Counter(letter.reason for letter in letters) == dict.fromkeys(REASONS, 1)
    for each in workers:
        assert "different ways" not in each.log
        assert each.end(signal.SIGTERM) == 0
    admin = AdminClient({"bootstrap.servers": lane.broker})
    assert admin.describe_consumer_groups([lane.topics.clicks])[lane.topics.clicks].result().members == [], (
        "another worker would wait for the session to end"
    )


def by_number(messages: list[Message]) -> dict[int, Message]:
    return {number(message): message for message in messages}


def number(message: Message) -> int:
    [(_, value)] = message.headers() or []
    return int(value or b"")


def test_the_topic_of_the_copies_has_what_the_source_has(kafka: str, name: str, tmp_path: Path) -> None:
    """Partitions, retention and the size of a message. A worker refuses to start without it, or if it is too small."""
    mapping, source = tmp_path / "shop.toml", f"{name}-events"
    mapping.write_text(MAPPING)
    topics = Topics(source, *(f"{name}-{n}" for n in range(6)))
    admin = AdminClient({"bootstrap.servers": kafka})
    new = NewTopic(source, 3, 1, config={"retention.ms": "-1", "max.message.bytes": "100000"})
    admin.create_topics([new])[source].result()
    with pytest.raises(ConfigError, match=rf"no topic {source}-by-user .*--clicks-topic {source} --mapping FILE"):
        check_source(kafka, source, by_user(source), PLAINTEXT)
    done = create(kafka, topics, str(mapping), 8, 1)
    assert done[source] == "exists, 3 partitions"
    assert (done[by_user(source)], done[topics.changelog]) == ("created, 3 partitions", "created, 3 partitions")
    assert create(kafka, topics, str(mapping), 8, 1)[by_user(source)] == "exists, 3 partitions"
    asked = ConfigResource(ResourceType.TOPIC, by_user(source))
    found = {entry: config.value for entry, config in admin.describe_configs([asked])[asked].result().items()}
    assert found["retention.ms"] == "-1"
    assert int(found["max.message.bytes"]) > 100_000 + 1_024
    check_source(kafka, source, by_user(source), PLAINTEXT)
    configs = check_topics(kafka, rekeyed(topics)).configs
    assert 100_000 < copy_limit(by_user(source), configs, 65_536) < int(found["max.message.bytes"])
    with pytest.raises(ConfigError, match="raise it with kafka-configs"):
        copy_limit(by_user(source), configs, 100_000)


def test_a_topic_of_the_producers_that_is_deleted_ends_the_workers(lane: RekeyedLane) -> None:
    """librdkafka notices it after minutes; the operator's table says 15 s."""
    lane.send(clicks(20))
    worker = lane.start(worker_id="0")
    lane.wait_until_decided()
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.delete_topics([lane.source])[lane.source].result(30)
    assert worker.process.wait(timeout=60) == 2
    assert f"topic {lane.source} was deleted while this worker re-keyed it; create it again" in worker.log
