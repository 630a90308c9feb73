"""Reads topics and the committed offsets of a group, with consumers that are independent of Eddy.

All consumers use read_committed: they do not see the messages of rolled-back transactions.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from stream.access.credentials import connect
from stream.kafka_config import PLAINTEXT, KafkaConfig

READ_S = 120.0


def _consumer(broker: str, group: str, config: KafkaConfig) -> Consumer:
    return connect(
        Consumer,
        broker,
        config,
        {
            "group.id": group,  # only to read its offsets; the consumer does not join the group
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,  # the end of a topic is known after one empty fetch; the default waits 500 ms
            "log_level": 0,
        },
    )


def read_topic(broker: str, topic: str, config: KafkaConfig = PLAINTEXT) -> list[Message]:
    """All messages of a topic; those of one partition are in offset order. Raises TimeoutError after READ_S seconds."""
    consumer = _consumer(broker, "readers", config)
    try:
        count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(count)])
        found: list[Message] = []
        ended: set[int] = set()
        deadline = time.monotonic() + READ_S
        while len(ended) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the end of {topic} was not reached within {READ_S:.0f} s")
            for message in consumer.consume(10_000, 0.1):
                if message.error() is None:
                    found.append(message)
                else:
                    ended.add(message.partition())
        return found
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
