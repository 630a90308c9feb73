"""Reads topics and the committed offsets of a group, with consumers that are independent of Eddy.

All messages are read with read_committed: those of rolled-back transactions are not seen.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from stream.access.credentials import connect
from stream.kafka_config import PLAINTEXT, KafkaConfig

READ_S = 120.0
MARKER_S = 5.0
LEADER_S = 30.0


def _consumer(broker: str, group: str, config: KafkaConfig, isolation: str = "read_committed") -> Consumer:
    return connect(
        Consumer,
        broker,
        config,
        {
            "group.id": group,  # only to read its offsets; the consumer does not join the group
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,  # the end of a topic is known after one empty fetch; the default waits 500 ms
            "log_level": 0,
        },
    )


def read_topic(broker: str, topic: str, config: KafkaConfig = PLAINTEXT) -> list[Message]:
    """All messages of a topic; those of one partition are in offset order. Raises TimeoutError after READ_S seconds.

    Kafka answers a commit before it has written the marker to each partition, and until then the messages cannot be
    read. So an end before the high watermark is waited for, at most MARKER_S seconds: a transaction may stay open.
    """
    consumer, ends = _consumer(broker, "readers", config), _high_watermarks(broker, topic, config)
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        found: list[Message] = []
        ended: dict[int, int] = {}  # partition -> offset at which it had no more messages
        began = time.monotonic()
        while len(ended) < len(ends) or (
            any(ended[partition] < end for partition, end in ends.items()) and time.monotonic() < began + MARKER_S
        ):
            if time.monotonic() > began + READ_S:
                raise TimeoutError(f"the end of {topic} was not reached within {READ_S:.0f} s")
            for message in consumer.consume(10_000, 0.1):
                if message.error() is None:
                    found.append(message)
                else:
                    ended[message.partition()] = message.offset()
        return found
    finally:
        consumer.close()


def _high_watermarks(broker: str, topic: str, config: KafkaConfig) -> dict[int, int]:
    """Partition -> the offset after its last record, whether this can be read yet or not.

    A broker that has just started has no leader for a partition: it is asked again, at most LEADER_S seconds.
    """
    consumer, deadline = _consumer(broker, "readers", config, "read_uncommitted"), time.monotonic() + LEADER_S
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        while True:
            try:
                return {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in partitions}
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    finally:
        consumer.close()


def wait_until_readable(broker: str, topics: Iterable[str], config: KafkaConfig = PLAINTEXT) -> None:
    """Wait until what is in the topics now can be read, because its transactions have their markers.

    At most MARKER_S seconds for each topic: a transaction may stay open. A topic that is not there has nothing to read.
    """
    consumer = _consumer(broker, "readers", config)
    try:
        for topic in consumer.list_topics(timeout=10).topics.keys() & set(topics):
            ends, deadline = _high_watermarks(broker, topic, config), time.monotonic() + MARKER_S
            while time.monotonic() < deadline and any(
                consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] < end for n, end in ends.items()
            ):
                time.sleep(0.01)
    finally:
        consumer.close()


class Volume(NamedTuple):
    """What a topic holds: `records` without transaction markers, and the mean size of key and value of a record."""

    records: int
    bytes_each: float


def volume(broker: str, topic: str, most: int = 2_000) -> Volume:
    """Estimate what was written to a topic since its creation, from the last `most` offsets of each partition."""
    consumer = _consumer(broker, "readers", PLAINTEXT)
    try:
        partitions = [
            TopicPartition(topic, n) for n in consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ]
        ends = {p.partition: consumer.get_watermark_offsets(p, timeout=10)[1] for p in partitions}
        starts = {number: max(0, end - most) for number, end in ends.items()}
        consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
        read, size, deadline = 0, 0, time.monotonic() + READ_S
        ended: set[int] = set()
        while len(ended) < len(ends):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the end of {topic} was not reached within {READ_S:.0f} s")
            for message in consumer.consume(10_000, 0.1):
                if message.error() is not None:
                    ended.add(message.partition())
                    continue
                read += 1
                size += len(message.key() or b"") + len(message.value() or b"")
        span = sum(ends.values()) - sum(starts.values())
        return Volume(round(sum(ends.values()) * read / max(1, span)), size / max(1, read))
    finally:
        consumer.close()


@contextmanager
def progress(
    broker: str, group: str, topic: str, config: KafkaConfig = PLAINTEXT
) -> Iterator[Callable[[], tuple[int, int]]]:
    """Yield a function that returns (messages that the group has committed, messages of the topic)."""
    consumer = _consumer(broker, group, config)
    count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    partitions = [TopicPartition(topic, partition) for partition in range(count)]

    def read_progress() -> tuple[int, int]:
        deadline = time.monotonic() + READ_S
        while True:
            try:
                committed = sum(max(0, found.offset) for found in consumer.committed(partitions, timeout=10))
                return committed, sum(consumer.get_watermark_offsets(p, timeout=10)[1] for p in partitions)
            except KafkaException:  # the broker is down, or has no coordinator yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    try:
        yield read_progress
    finally:
        consumer.close()
